"""Counts of how mail was secured, reports of receivers, the warm-up of source addresses, the doctor's findings."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    postgres = op.get_context().dialect.name == "postgresql"
    key = 'TEXT COLLATE "C"' if postgres else "VARCHAR({})"
    words = 'TEXT COLLATE "C"' if postgres else "TEXT"
    without_rowid = "" if postgres else " WITHOUT ROWID"
    for statement in (
        f"""CREATE TABLE tls_count (
            day BIGINT NOT NULL,
            domain {key.format(253)} NOT NULL,
            policy {key.format(16)} NOT NULL,
            mx_host {key.format(253)} NOT NULL,
            result {key.format(40)} NOT NULL,
            sessions BIGINT NOT NULL,
            CONSTRAINT pk_tls_count PRIMARY KEY (day, domain, policy, mx_host, result)
        ){without_rowid}""",
        f"""CREATE TABLE report (
            team_id BIGINT NOT NULL,
            id {key.format(40)} NOT NULL,
            kind {key.format(8)} NOT NULL,
            domain {key.format(253)} NOT NULL,
            organization {words} NOT NULL,
            report_id {words} NOT NULL,
            begins_at BIGINT NOT NULL,
            ends_at BIGINT NOT NULL,
            received_at BIGINT NOT NULL,
            summary TEXT NOT NULL,
            CONSTRAINT pk_report PRIMARY KEY (team_id, id)
        )""",
        "CREATE INDEX ix_report_domain ON report (team_id, domain, kind, begins_at)",
        "CREATE UNIQUE INDEX ix_report_once ON report (team_id, domain, kind, organization, report_id)",
        f"""CREATE TABLE warm_up (
            address {key.format(64)} NOT NULL,
            receiver {key.format(64)} NOT NULL,
            day BIGINT NOT NULL,
            recipients BIGINT NOT NULL,
            CONSTRAINT pk_warm_up PRIMARY KEY (address, receiver, day)
        ){without_rowid}""",
        f"""CREATE TABLE finding (
            scope {key.format(253)} NOT NULL,
            name {key.format(160)} NOT NULL,
            status {key.format(8)} NOT NULL,
            detail TEXT NOT NULL,
            looked_at BIGINT NOT NULL,
            changed_at BIGINT NOT NULL,
            CONSTRAINT pk_finding PRIMARY KEY (scope, name)
        )""",
    ):
        op.execute(statement)
