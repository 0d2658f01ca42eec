"""Restricted keys, people and their sessions, claims of domains, senders, idempotency, usage, audit, refusals, ACME."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    postgres = op.get_context().dialect.name == "postgresql"
    key = 'TEXT COLLATE "C"' if postgres else "VARCHAR({})"
    words = 'TEXT COLLATE "C"' if postgres else "TEXT"
    blob = "BYTEA" if postgres else "BLOB"
    without_rowid = "" if postgres else " WITHOUT ROWID"
    for statement in (
        "ALTER TABLE team ADD COLUMN paused_at BIGINT",
        "ALTER TABLE team ADD COLUMN paused_reason TEXT",
        "ALTER TABLE api_key ADD COLUMN restrictions TEXT DEFAULT '{}' NOT NULL",
        f"ALTER TABLE domain ADD COLUMN return_path {key.format(63)} DEFAULT 'send' NOT NULL",
        f"ALTER TABLE domain ADD COLUMN tracking_host {key.format(253)}",
        "ALTER TABLE domain ADD COLUMN checked_at BIGINT",
        "ALTER TABLE domain ADD COLUMN verified_at BIGINT",
        "ALTER TABLE dkim_key ADD COLUMN active_from BIGINT DEFAULT 0",
        "ALTER TABLE dkim_key ADD COLUMN retired_at BIGINT",
        f"""CREATE TABLE account (
            id {key.format(40)} NOT NULL,
            email {words} NOT NULL,
            name TEXT NOT NULL,
            password TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            last_seen_at BIGINT,
            CONSTRAINT pk_account PRIMARY KEY (id),
            CONSTRAINT uq_account_email UNIQUE (email)
        )""",
        f"""CREATE TABLE membership (
            team_id BIGINT NOT NULL,
            account_id {key.format(40)} NOT NULL,
            role {key.format(16)} NOT NULL,
            created_at BIGINT NOT NULL,
            CONSTRAINT pk_membership PRIMARY KEY (team_id, account_id)
        )""",
        "CREATE INDEX ix_membership_account ON membership (account_id)",
        f"""CREATE TABLE session (
            id {blob} NOT NULL,
            account_id {key.format(40)} NOT NULL,
            team_id BIGINT NOT NULL,
            created_at BIGINT NOT NULL,
            seen_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            CONSTRAINT pk_session PRIMARY KEY (id)
        )""",
        "CREATE INDEX ix_session_account_id ON session (account_id)",
        f"""CREATE TABLE one_time_link (
            id {blob} NOT NULL,
            kind {key.format(16)} NOT NULL,
            team_id BIGINT NOT NULL,
            email {words},
            role {key.format(16)},
            created_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            CONSTRAINT pk_one_time_link PRIMARY KEY (id)
        )""",
        f"""CREATE TABLE domain_claim (
            name {key.format(253)} NOT NULL,
            team_id BIGINT NOT NULL,
            domain_id {key.format(40)} NOT NULL,
            claimed_at BIGINT NOT NULL,
            CONSTRAINT pk_domain_claim PRIMARY KEY (name)
        )""",
        f"""CREATE TABLE sender (
            team_id BIGINT NOT NULL,
            id {key.format(40)} NOT NULL,
            name TEXT NOT NULL,
            username {key.format(64)} NOT NULL,
            domain_id {key.format(40)} NOT NULL,
            reply_to TEXT,
            created_at BIGINT NOT NULL,
            updated_at BIGINT NOT NULL,
            CONSTRAINT pk_sender PRIMARY KEY (team_id, id),
            CONSTRAINT uq_sender_team_id_domain_id_username UNIQUE (team_id, domain_id, username)
        )""",
        f"""CREATE TABLE idempotency (
            team_id BIGINT NOT NULL,
            scope {key.format(32)} NOT NULL,
            key {words} NOT NULL,
            fingerprint {blob} NOT NULL,
            reply TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            kept_until BIGINT NOT NULL,
            CONSTRAINT pk_idempotency PRIMARY KEY (team_id, scope, key)
        ){without_rowid}""",
        f"""CREATE TABLE usage (
            team_id BIGINT NOT NULL,
            kind {key.format(32)} NOT NULL,
            name {words} NOT NULL,
            "window" BIGINT NOT NULL,
            used BIGINT NOT NULL,
            CONSTRAINT pk_usage PRIMARY KEY (team_id, kind, name, "window")
        ){without_rowid}""",
        f"""CREATE TABLE audit (
            team_id BIGINT NOT NULL,
            id {key.format(40)} NOT NULL,
            at BIGINT NOT NULL,
            actor {words} NOT NULL,
            action {key.format(40)} NOT NULL,
            target {words} NOT NULL,
            detail TEXT NOT NULL,
            CONSTRAINT pk_audit PRIMARY KEY (team_id, id)
        )""",
        f"""CREATE TABLE refusal_log (
            team_id BIGINT NOT NULL,
            id {key.format(40)} NOT NULL,
            at BIGINT NOT NULL,
            door {key.format(8)} NOT NULL,
            address {words} NOT NULL,
            key_prefix {words},
            step {words} NOT NULL,
            reply TEXT NOT NULL,
            detail TEXT NOT NULL,
            CONSTRAINT pk_refusal_log PRIMARY KEY (team_id, id)
        )""",
        "CREATE INDEX ix_refusal_log_id ON refusal_log (id)",
        f"""CREATE TABLE acme (
            kind {key.format(16)} NOT NULL,
            name {words} NOT NULL,
            value {blob} NOT NULL,
            updated_at BIGINT NOT NULL,
            CONSTRAINT pk_acme PRIMARY KEY (kind, name)
        )""",
    ):
        op.execute(statement)
