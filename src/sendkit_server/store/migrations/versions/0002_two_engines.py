"""Two engines: PostgreSQL's tables are made anew, partitioned by time; attempts and events get keys led by the team;
nodes say where they run and what they committed last.

Revision 0001 never ran on PostgreSQL outside of a start that went straight on to this one, so its tables are empty there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TABLES_OF_0001 = (
    "api_key, attempt, captured, content, dkim_key, domain, event, message, message_label, meta, node, recipient, team"
)


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        used = "SELECT (SELECT count(*) FROM message) + (SELECT count(*) FROM api_key) + (SELECT count(*) FROM domain)"
        if op.get_bind().execute(sa.text(used)).scalar():
            raise RuntimeError("revision 0001 is not expected to hold anything on PostgreSQL")
        op.execute(f"DROP TABLE {_TABLES_OF_0001}")
        _run(_POSTGRES)
    else:
        _run(_SQLITE)


def _run(statements: str) -> None:
    for statement in statements.split(";"):
        if statement.strip():
            op.execute(statement.strip())


_SQLITE = """
CREATE TABLE attempt_new (
    team_id BIGINT NOT NULL,
    message_id VARCHAR(40) NOT NULL,
    id BIGINT NOT NULL,
    route VARCHAR(64) NOT NULL,
    host VARCHAR(255),
    address VARCHAR(64),
    tls VARCHAR(128),
    started_at BIGINT NOT NULL,
    milliseconds INTEGER NOT NULL,
    outcomes TEXT NOT NULL,
    transcript TEXT NOT NULL,
    CONSTRAINT pk_attempt PRIMARY KEY (team_id, message_id, id)
) WITHOUT ROWID;
INSERT INTO attempt_new SELECT team_id, message_id, id, route, host, address, tls, started_at, milliseconds, outcomes,
    transcript FROM attempt;
DROP TABLE attempt;
ALTER TABLE attempt_new RENAME TO attempt;
CREATE TABLE event_new (
    team_id BIGINT NOT NULL,
    message_id VARCHAR(40) NOT NULL,
    id BIGINT NOT NULL,
    n INTEGER NOT NULL,
    type VARCHAR(24) NOT NULL,
    at BIGINT NOT NULL,
    detail TEXT NOT NULL,
    CONSTRAINT pk_event PRIMARY KEY (team_id, message_id, id)
) WITHOUT ROWID;
INSERT INTO event_new SELECT team_id, message_id, id, n, type, at, detail FROM event;
DROP TABLE event;
ALTER TABLE event_new RENAME TO event;
DROP INDEX ix_dkim_key_domain_id;
CREATE INDEX ix_dkim_key_domain ON dkim_key (team_id, domain_id);
DROP TABLE node;
CREATE TABLE node (
    id INTEGER NOT NULL,
    instance VARCHAR(64) NOT NULL,
    hostname VARCHAR(255) NOT NULL,
    pid INTEGER NOT NULL,
    roles VARCHAR(64) NOT NULL,
    version VARCHAR(32) NOT NULL,
    started_at BIGINT NOT NULL,
    beat_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    CONSTRAINT pk_node PRIMARY KEY (id)
);
CREATE INDEX ix_node_instance ON node (instance);
CREATE TABLE node_commit (
    owner BIGINT NOT NULL,
    number BIGINT NOT NULL,
    CONSTRAINT pk_node_commit PRIMARY KEY (owner, number)
) WITHOUT ROWID;
"""

_POSTGRES = """
CREATE TABLE api_key (
    team_id BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    secret_hash BYTEA NOT NULL,
    prefix TEXT COLLATE "C" NOT NULL,
    permissions TEXT NOT NULL,
    test BOOLEAN NOT NULL,
    domain_id TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT,
    CONSTRAINT pk_api_key PRIMARY KEY (team_id, id),
    CONSTRAINT uq_api_key_secret_hash UNIQUE (secret_hash)
);
CREATE TABLE attempt (
    team_id BIGINT NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    id BIGINT NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    host TEXT COLLATE "C",
    address TEXT COLLATE "C",
    tls TEXT COLLATE "C",
    started_at BIGINT NOT NULL,
    milliseconds INTEGER NOT NULL,
    outcomes TEXT NOT NULL,
    transcript TEXT NOT NULL,
    CONSTRAINT pk_attempt PRIMARY KEY (team_id, message_id, id)
) PARTITION BY RANGE (message_id);
CREATE TABLE captured (
    team_id BIGINT NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    captured_at BIGINT NOT NULL,
    raw BYTEA NOT NULL,
    CONSTRAINT pk_captured PRIMARY KEY (team_id, message_id)
) PARTITION BY RANGE (message_id);
CREATE TABLE content (
    team_id BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    size_bytes BIGINT NOT NULL,
    body BYTEA NOT NULL,
    CONSTRAINT pk_content PRIMARY KEY (team_id, id)
) PARTITION BY RANGE (id);
CREATE TABLE dkim_key (
    team_id BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    domain_id TEXT COLLATE "C" NOT NULL,
    selector TEXT COLLATE "C" NOT NULL,
    algorithm TEXT COLLATE "C" NOT NULL,
    private_key BYTEA NOT NULL,
    public_record TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_dkim_key PRIMARY KEY (team_id, id)
);
CREATE INDEX ix_dkim_key_domain ON dkim_key (team_id, domain_id);
CREATE TABLE domain (
    team_id BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    trusted BOOLEAN NOT NULL,
    region TEXT COLLATE "C" NOT NULL,
    open_tracking BOOLEAN NOT NULL,
    click_tracking BOOLEAN NOT NULL,
    tls TEXT COLLATE "C" NOT NULL,
    record_status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT pk_domain PRIMARY KEY (team_id, id),
    CONSTRAINT uq_domain_team_id_name UNIQUE (team_id, name)
);
CREATE TABLE event (
    team_id BIGINT NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    id BIGINT NOT NULL,
    n INTEGER NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    detail TEXT NOT NULL,
    CONSTRAINT pk_event PRIMARY KEY (team_id, message_id, id)
) PARTITION BY RANGE (message_id);
CREATE TABLE message (
    team_id BIGINT NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    parent_id TEXT COLLATE "C" NOT NULL,
    content_id TEXT COLLATE "C" NOT NULL,
    door TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    domain_id TEXT COLLATE "C",
    capture BOOLEAN NOT NULL,
    protocol TEXT COLLATE "C" NOT NULL,
    from_mailbox TEXT NOT NULL,
    to_mailboxes TEXT NOT NULL,
    cc_mailboxes TEXT NOT NULL,
    subject TEXT NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    tags TEXT NOT NULL,
    metadata TEXT NOT NULL,
    stream TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    recipient_count INTEGER NOT NULL,
    size_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    sent_at BIGINT,
    CONSTRAINT pk_message PRIMARY KEY (team_id, id)
) PARTITION BY RANGE (id);
CREATE INDEX ix_message_message_id ON message (team_id, message_id) WHERE message_id <> '';
CREATE TABLE message_label (
    team_id BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_message_label PRIMARY KEY (team_id, kind, name, value, message_id)
) PARTITION BY RANGE (message_id);
CREATE TABLE meta (
    key TEXT COLLATE "C" NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_meta PRIMARY KEY (key)
);
CREATE TABLE node (
    id BIGSERIAL NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    hostname TEXT COLLATE "C" NOT NULL,
    pid INTEGER NOT NULL,
    roles TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    beat_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    CONSTRAINT pk_node PRIMARY KEY (id)
);
CREATE INDEX ix_node_instance ON node (instance);
CREATE TABLE node_commit (
    owner BIGINT NOT NULL,
    number BIGINT NOT NULL,
    CONSTRAINT pk_node_commit PRIMARY KEY (owner, number)
);
CREATE TABLE recipient (
    team_id BIGINT NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    n INTEGER NOT NULL,
    local TEXT NOT NULL,
    site TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    matching TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT,
    explanation TEXT,
    code INTEGER,
    enhanced TEXT COLLATE "C",
    next_attempt_at BIGINT,
    owner BIGINT,
    fence INTEGER NOT NULL,
    updated_at BIGINT NOT NULL,
    CONSTRAINT pk_recipient PRIMARY KEY (team_id, message_id, n)
) PARTITION BY RANGE (message_id);
CREATE INDEX ix_recipient_due ON recipient (site, next_attempt_at) WHERE owner IS NULL AND next_attempt_at IS NOT NULL;
CREATE INDEX ix_recipient_matching ON recipient (team_id, matching, message_id) WHERE matching <> '';
CREATE INDEX ix_recipient_next ON recipient (next_attempt_at)
    WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND fence >= 0;
CREATE INDEX ix_recipient_owned ON recipient (owner) WHERE owner IS NOT NULL;
CREATE INDEX ix_recipient_waiting ON recipient (team_id, site, next_attempt_at)
    WHERE next_attempt_at IS NOT NULL AND fence >= 0;
CREATE TABLE team (
    id BIGSERIAL NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_team PRIMARY KEY (id),
    CONSTRAINT uq_team_name UNIQUE (name)
);
"""
