"""The schema, once for both engines: tables, keys and the indexes that every list and every claim runs on.

Every tenant table leads with `team_id`; public ids sort by time, so a primary key (team_id, id) is also the order of
arrival. Instants are milliseconds since the epoch. Tables that only ever hold short rows are WITHOUT ROWID on SQLite:
one B-tree instead of two on the accept path. On PostgreSQL the tables that grow with every mail are cut into partitions
by the time in their ids (`postgres/partitions.py`), so that retention drops a week instead of deleting rows.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for a column declared exactly INTEGER PRIMARY KEY.
Serial = BigInteger().with_variant(Integer, "sqlite")


def Name(length: int) -> TypeEngine[str]:
    """Text that is compared and sorted by its bytes on both engines. length: says what to expect, limits nothing."""
    return String(length).with_variant(Text(collation="C"), "postgresql")


Words = Text().with_variant(Text(collation="C"), "postgresql")

meta = Table(
    "meta",
    metadata,
    Column("key", Name(64), primary_key=True),
    Column("value", Text, nullable=False),
)

team = Table(
    "team",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("name", Name(255), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    # Set while nothing may be sent; the reason is for people.
    Column("paused_at", BigInteger),
    Column("paused_reason", Text),
)

# A person who signs in. password: a PHC string of Argon2id.
account = Table(
    "account",
    metadata,
    Column("id", Name(40), primary_key=True),
    Column("email", Words, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("password", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger),
)

# Who belongs to a team. role: owner, admin, member or viewer.
membership = Table(
    "membership",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("account_id", Name(40), primary_key=True),
    Column("role", Name(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_membership_account", "account_id"),
)

# A browser that is signed in. id: SHA-256 of the cookie's secret.
session = Table(
    "session",
    metadata,
    Column("id", LargeBinary(32), primary_key=True),
    Column("account_id", Name(40), nullable=False, index=True),
    Column("team_id", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# A link that works once. kind: setup, invite or reset.  id: SHA-256 of its secret.
one_time_link = Table(
    "one_time_link",
    metadata,
    Column("id", LargeBinary(32), primary_key=True),
    Column("kind", Name(16), nullable=False),
    Column("team_id", BigInteger, nullable=False),
    Column("email", Words),
    Column("role", Name(16)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

api_key = Table(
    "api_key",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("name", Name(255), nullable=False),
    # SHA-256 of the secret: the secret itself has 285 bits, so a slow hash would buy nothing.
    Column("secret_hash", LargeBinary(32), nullable=False, unique=True),
    Column("prefix", Name(16), nullable=False),
    Column("permissions", Text, nullable=False),
    Column("test", Boolean, nullable=False),
    # The only domain it may send from; when there are several, restrictions has them.
    Column("domain_id", Name(40)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    # JSON: model/mail.py Restrictions.
    Column("restrictions", Text, nullable=False, server_default="{}"),
)

domain = Table(
    "domain",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("name", Name(253), nullable=False),
    Column("status", Name(16), nullable=False),
    Column("trusted", Boolean, nullable=False),
    Column("region", Name(32), nullable=False),
    Column("open_tracking", Boolean, nullable=False),
    Column("click_tracking", Boolean, nullable=False),
    Column("tls", Name(16), nullable=False),
    # JSON {"DKIM": "verified", …}: what each record was last found to be.
    Column("record_status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # The label before its name in the return path, and the host of its tracking links; None: the public URL's.
    Column("return_path", Name(63), nullable=False, server_default="send"),
    Column("tracking_host", Name(253)),
    Column("checked_at", BigInteger),
    Column("verified_at", BigInteger),
    UniqueConstraint("team_id", "name"),
)

# Whose a verified domain is: no other team can verify it as long as it stands here.
domain_claim = Table(
    "domain_claim",
    metadata,
    Column("name", Name(253), primary_key=True),
    Column("team_id", BigInteger, nullable=False),
    Column("domain_id", Name(40), nullable=False),
    Column("claimed_at", BigInteger, nullable=False),
)

sender = Table(
    "sender",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("name", Text, nullable=False),
    Column("username", Name(64), nullable=False),
    Column("domain_id", Name(40), nullable=False),
    Column("reply_to", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("team_id", "domain_id", "username"),
)

# What a caller may ask for only once, and what was answered. scope: the path, `smtp`, or `smtp-bytes`.  reply: JSON.
idempotency = Table(
    "idempotency",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("scope", Name(32), primary_key=True),
    Column("key", Words, primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("reply", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("kept_until", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# How much has been used of what is limited. kind: what is counted (`key`, `team`, `domain`, …).  name: whose.  window: the
# first moment of the minute, day or month.
usage = Table(
    "usage",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("kind", Name(32), primary_key=True),
    Column("name", Words, primary_key=True),
    Column("window", BigInteger, primary_key=True),
    Column("used", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Every change that somebody made. actor: a key, a person, or `cli`.
audit = Table(
    "audit",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Words, nullable=False),
    Column("action", Name(40), nullable=False),
    Column("target", Words, nullable=False),
    Column("detail", Text, nullable=False),  # JSON
)

# Requests and sessions that were refused or failed. team_id 0: nobody knows whose.
refusal_log = Table(
    "refusal_log",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("door", Name(8), nullable=False),
    Column("address", Words, nullable=False),
    Column("key_prefix", Words),
    Column("step", Words, nullable=False),
    Column("reply", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON: the redacted request or transcript
    Index("ix_refusal_log_id", "id"),
)

# Wrong keys and passwords that processes tell each other of; the time is in the id. counted: JSON, of one process and second.
guess = Table(
    "guess",
    metadata,
    Column("id", Name(40), primary_key=True),
    Column("process", Name(32), nullable=False),
    Column("counted", Text, nullable=False),
)

# What the ACME client keeps, sealed: account, certificates by name, and answers to challenges while they are asked.
acme = Table(
    "acme",
    metadata,
    Column("kind", Name(16), primary_key=True),
    Column("name", Words, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

dkim_key = Table(
    "dkim_key",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("domain_id", Name(40), nullable=False),
    Column("selector", Name(63), nullable=False),
    Column("algorithm", Name(32), nullable=False),
    Column("private_key", LargeBinary, nullable=False),
    Column("public_record", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # From when on it signs, None while its record is only to be published; and when it stopped.
    Column("active_from", BigInteger, server_default=text("0")),
    Column("retired_at", BigInteger),
    Index("ix_dkim_key_domain", "team_id", "domain_id"),
)

content = Table(
    "content",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (id)",
)

message = Table(
    "message",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("parent_id", Name(40), nullable=False),
    Column("content_id", Name(40), nullable=False),
    Column("door", Name(8), nullable=False),
    Column("key_id", Name(40), nullable=False),
    Column("domain_id", Name(40)),
    Column("capture", Boolean, nullable=False),
    Column("protocol", Name(16), nullable=False),
    # The mailboxes of the headers, as JSON arrays [local, domain, name].
    Column("from_mailbox", Text, nullable=False),
    Column("to_mailboxes", Text, nullable=False),
    Column("cc_mailboxes", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("message_id", Words, nullable=False),
    Column("tags", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("stream", Name(64), nullable=False),
    Column("status", Name(20), nullable=False),
    Column("recipient_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    # 0 urgent, 1 normal, 2 bulk.
    Column("priority", Integer, nullable=False, server_default=text("1")),
    Column("expires_at", BigInteger),
    Column("require_tls", Boolean, nullable=False, server_default=text("false")),
    Index("ix_message_message_id", "team_id", "message_id", postgresql_where=text("message_id <> ''")),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (id)",
)

message_label = Table(
    "message_label",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("kind", Name(8), primary_key=True),
    Column("name", Name(256), primary_key=True),
    Column("value", Name(512), primary_key=True),
    Column("message_id", Name(40), primary_key=True),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (message_id)",
)

UNSETTLED = text("next_attempt_at IS NOT NULL")
DUE = text("owner IS NULL AND next_attempt_at IS NOT NULL")
# PostgreSQL chooses between indexes by statistics, and a partition that was made just now has none: any index whose first
# column fits may win then, and its plan is kept while the partition fills. So those beside the primary key say something
# that is always true, and only a question that says it too goes by them.
DUE_ANYWHERE = text("owner IS NULL AND next_attempt_at IS NOT NULL AND fence >= 0")
UNSETTLED_OF_TEAM = text("next_attempt_at IS NOT NULL AND fence >= 0")
OWNED = text("owner IS NOT NULL")

recipient = Table(
    "recipient",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("message_id", Name(40), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("local", Text, nullable=False),
    Column("site", Name(253), nullable=False),
    Column("name", Text, nullable=False),
    # Lower-cased address: how a recipient is looked for.
    Column("matching", Words, nullable=False),
    Column("role", Name(4), nullable=False),
    Column("status", Name(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text),
    Column("explanation", Text),
    Column("code", Integer),
    Column("enhanced", Name(16)),
    # NULL once settled; while owned, when it became due.
    Column("next_attempt_at", BigInteger),
    Column("owner", BigInteger),
    Column("fence", Integer, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # The message's: a claim takes the urgent ones of a site first.
    Column("priority", Integer, nullable=False, server_default=text("1")),
    Index("ix_recipient_due", "site", "priority", "next_attempt_at", sqlite_where=DUE, postgresql_where=DUE),
    Index("ix_recipient_next", "next_attempt_at", sqlite_where=DUE, postgresql_where=DUE_ANYWHERE),
    Index("ix_recipient_owned", "owner", sqlite_where=OWNED, postgresql_where=OWNED),
    Index(
        "ix_recipient_waiting",
        "team_id",
        "site",
        "next_attempt_at",
        sqlite_where=UNSETTLED,
        postgresql_where=UNSETTLED_OF_TEAM,
    ),
    Index("ix_recipient_matching", "team_id", "matching", "message_id", postgresql_where=text("matching <> ''")),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (message_id)",
)

# The ids of attempts and events are made by the process that writes them (rows.Numbers): they sort by time.
attempt = Table(
    "attempt",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("message_id", Name(40), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("route", Name(64), nullable=False),
    Column("host", Name(255)),
    Column("address", Name(64)),
    Column("tls", Name(128)),
    Column("started_at", BigInteger, nullable=False),
    Column("milliseconds", Integer, nullable=False),
    # JSON: [{n, result, reason, text, code, enhanced, possible_duplicate}] and [[at_ms, side, text]].
    Column("outcomes", Text, nullable=False),
    Column("transcript", Text, nullable=False),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (message_id)",
)

event = Table(
    "event",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("message_id", Name(40), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("type", Name(24), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (message_id)",
)

captured = Table(
    "captured",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("message_id", Name(40), primary_key=True),
    Column("captured_at", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (message_id)",
)

# An address that a team does not send to. detail: JSON, the evidence (message, words, when).
suppression = Table(
    "suppression",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    # As recipient.matching.
    Column("address", Words, primary_key=True),
    Column("id", Name(40), nullable=False),
    Column("reason", Name(16), nullable=False),
    Column("detail", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_suppression_id", "team_id", "id", unique=True),
)

# A destination that the operator has stopped: nothing is delivered there until it is released.
held_site = Table(
    "held_site",
    metadata,
    Column("site", Name(253), primary_key=True),
    Column("held_at", BigInteger, nullable=False),
)

# What domains have published about TLS to their MX hosts (RFC 8461). mode: none, testing, enforce.  mx: JSON, patterns.
mta_sts = Table(
    "mta_sts",
    metadata,
    Column("domain", Name(253), primary_key=True),
    Column("policy_id", Name(32), nullable=False),
    Column("mode", Name(8), nullable=False),
    Column("mx", Text, nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# How connections to a domain's mail hosts were secured, by day (RFC 8460 4.3). policy: `sts`, `tlsa` or
# `no-policy-found`.  result: `success`, or the result type of RFC 8460.
tls_count = Table(
    "tls_count",
    metadata,
    Column("day", BigInteger, primary_key=True),  # its first moment, UTC
    Column("domain", Name(253), primary_key=True),
    Column("policy", Name(16), primary_key=True),
    Column("mx_host", Name(253), primary_key=True),
    Column("result", Name(40), primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# A report that a receiver has sent about a domain: kind `dmarc` (RFC 7489 7.2) or `tls` (RFC 8460). summary: JSON.
report = Table(
    "report",
    metadata,
    Column("team_id", BigInteger, primary_key=True),
    Column("id", Name(40), primary_key=True),
    Column("kind", Name(8), nullable=False),
    Column("domain", Name(253), nullable=False),
    Column("organization", Words, nullable=False),
    Column("report_id", Words, nullable=False),
    Column("begins_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("summary", Text, nullable=False),
    Index("ix_report_domain", "team_id", "domain", "kind", "begins_at"),
    Index("ix_report_once", "team_id", "domain", "kind", "organization", "report_id", unique=True),
)

# What a source address that is being warmed up has sent to a big receiver, by day.
warm_up = Table(
    "warm_up",
    metadata,
    Column("address", Name(64), primary_key=True),
    Column("receiver", Name(64), primary_key=True),
    Column("day", BigInteger, primary_key=True),  # its first moment, UTC
    Column("recipients", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What `sendkit doctor` found last, so that the next look can tell what has changed. scope: a domain's id, or the instance
# of the node that it is about; name: with the address or list that it is about behind it.
finding = Table(
    "finding",
    metadata,
    Column("scope", Name(253), primary_key=True),
    Column("name", Name(160), primary_key=True),
    Column("status", Name(8), nullable=False),
    Column("detail", Text, nullable=False),  # JSON
    Column("looked_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)

# One incarnation of a process. What it owns is its own until somebody writes `ended_at`.
node = Table(
    "node",
    metadata,
    Column("id", Serial, primary_key=True),
    # The data directory that it runs in: two processes of one instance cannot live at the same time.
    Column("instance", Name(64), nullable=False, index=True),
    Column("hostname", Name(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("roles", Name(64), nullable=False),
    Column("version", Name(32), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("beat_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)

# A transaction of an incarnation's writer, so that it can be told whether one is there whose answer was lost. Rows of their
# own, and not a number in `node`: that row's old versions would pile up while anybody holds an old snapshot.
node_commit = Table(
    "node_commit",
    metadata,
    Column("owner", BigInteger, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)
