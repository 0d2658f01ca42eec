"""Wrong keys and passwords, as processes tell each other of them."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    postgres = op.get_context().dialect.name == "postgresql"
    key = 'TEXT COLLATE "C"' if postgres else "VARCHAR({})"
    op.execute(
        f"""CREATE TABLE guess (
            id {key.format(40)} NOT NULL,
            process {key.format(32)} NOT NULL,
            counted TEXT NOT NULL,
            CONSTRAINT pk_guess PRIMARY KEY (id)
        )"""
    )
