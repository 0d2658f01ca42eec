"""Priorities, deadlines and required TLS of a message; suppressions; held destinations; TLS policies of domains."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    postgres = op.get_context().dialect.name == "postgresql"
    key = 'TEXT COLLATE "C"' if postgres else "VARCHAR({})"
    words = 'TEXT COLLATE "C"' if postgres else "TEXT"
    for statement in (
        "ALTER TABLE message ADD COLUMN priority INTEGER DEFAULT 1 NOT NULL",
        "ALTER TABLE message ADD COLUMN expires_at BIGINT",
        "ALTER TABLE message ADD COLUMN require_tls BOOLEAN DEFAULT false NOT NULL",
        "ALTER TABLE recipient ADD COLUMN priority INTEGER DEFAULT 1 NOT NULL",
        "DROP INDEX ix_recipient_due",
        "CREATE INDEX ix_recipient_due ON recipient (site, priority, next_attempt_at)"
        " WHERE owner IS NULL AND next_attempt_at IS NOT NULL",
        f"""CREATE TABLE suppression (
            team_id BIGINT NOT NULL,
            address {words} NOT NULL,
            id {key.format(40)} NOT NULL,
            reason {key.format(16)} NOT NULL,
            detail TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            updated_at BIGINT NOT NULL,
            CONSTRAINT pk_suppression PRIMARY KEY (team_id, address)
        )""",
        "CREATE UNIQUE INDEX ix_suppression_id ON suppression (team_id, id)",
        f"""CREATE TABLE held_site (
            site {key.format(253)} NOT NULL,
            held_at BIGINT NOT NULL,
            CONSTRAINT pk_held_site PRIMARY KEY (site)
        )""",
        f"""CREATE TABLE mta_sts (
            domain {key.format(253)} NOT NULL,
            policy_id {key.format(32)} NOT NULL,
            mode {key.format(8)} NOT NULL,
            mx TEXT NOT NULL,
            fetched_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            CONSTRAINT pk_mta_sts PRIMARY KEY (domain)
        )""",
    ):
        op.execute(statement)
