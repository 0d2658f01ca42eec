"""How it stands on this machine: certificate, clock, disk, database, secret key, and whether what waits is moving."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from sqlalchemy import Connection, func, select

from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.model.finding import Finding, FindingStatus
from sendkit_server.model.ids import instant_of
from sendkit_server.model.instant import MINUTE_MS, SECOND_MS, Instant, to_datetime
from sendkit_server.store import seal
from sendkit_server.store.errors import StoreError
from sendkit_server.store.queries import emails as email_queries
from sendkit_server.store.queries.retention import team_ids
from sendkit_server.store.schema import dkim_key, message
from sendkit_server.store.store import Store

EXPIRES_SOON = timedelta(days=14)
CLOCK_WARNING_MS = 5 * SECOND_MS
CLOCK_ERROR_MS = 5 * MINUTE_MS
OVERDUE_MS = 10 * MINUTE_MS

OK, WARNING, ERROR, UNKNOWN = FindingStatus.OK, FindingStatus.WARNING, FindingStatus.ERROR, FindingStatus.UNKNOWN


async def look_at_certificate(around: Surroundings, wall: Instant) -> list[Finding]:
    """Whether the certificate of our listeners is for our name, and for how long."""
    path, hostname = around.certificate, around.names.hostname
    if path is None or not path.exists():
        return [Finding("certificate", OK, "there is none yet; the server makes one when it starts")]
    try:
        leaf = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        why = "No client can connect over TLS."
        return [Finding("certificate", ERROR, f"{path} cannot be read: {error}", why, "set SENDKIT_TLS_CERT")]
    return [_judge_certificate(leaf, str(path), hostname, around, wall)]


def _judge_certificate(
    leaf: x509.Certificate, path: str, hostname: str, around: Surroundings, wall: Instant
) -> Finding:
    ends, now = leaf.not_valid_after_utc, to_datetime(wall)
    why = "Applications that check certificates, as they should, cannot send."
    renew = (
        "restart the server, which makes a new one" if around.own_authority else f"renew {path}; it is loaded by itself"
    )
    if ends <= now:
        return Finding("certificate", ERROR, f"{path} has expired on {ends:%Y-%m-%d}", why, renew)
    if leaf.not_valid_before_utc > now:
        return Finding(
            "certificate", ERROR, f"{path} is valid only from {leaf.not_valid_before_utc:%Y-%m-%d}", why, renew
        )
    if not _names(leaf, hostname):
        return Finding("certificate", WARNING, f"{path} is not for {hostname}", why, f"get one for {hostname}")
    if ends - now < EXPIRES_SOON:
        return Finding("certificate", WARNING, f"{path} expires on {ends:%Y-%m-%d}", why, renew)
    if around.own_authority and around.reachable:
        text = f"the certificate was made by this server, so no other machine can check it; it ends on {ends:%Y-%m-%d}"
        fix = "SENDKIT_TLS_CERT and SENDKIT_TLS_KEY with a public certificate, or clients that trust <data>/tls/ca.pem"
        return Finding("certificate", WARNING, text, why, fix)
    return Finding("certificate", OK, f"{path} is for {hostname} and ends on {ends:%Y-%m-%d}")


def _names(leaf: x509.Certificate, hostname: str) -> bool:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    except x509.ExtensionNotFound:
        return False
    wanted = {hostname.lower(), "*." + hostname.lower().partition(".")[2]}
    return any(name.lower() in wanted for name in names)


async def look_at_clock(store: Store, clock: Callable[[], Instant]) -> list[Finding]:
    """Against the database's clock where it has one of its own, else against what was written last."""
    machine = time.time_ns() // 1_000_000
    why = "Retries, expiry, signatures and certificates go by the clock; a mail dated wrongly looks like spam."
    fix = "let the system's clock be set by NTP (timedatectl set-ntp true), then restart the server"
    theirs = await store.read(store.engine.now)
    newest = await store.read(_newest)
    if theirs is not None:
        apart, compared = machine - theirs, "the database's"
    elif newest is not None and newest > machine + CLOCK_WARNING_MS:
        apart, compared = machine - newest, "the newest mail's"
    else:
        apart, compared = machine - clock(), "the server's own since its start"
    shown = f"{abs(apart) / 1000:.1f} s {'ahead of' if apart > 0 else 'behind'} {compared}"
    if abs(apart) >= CLOCK_ERROR_MS:
        return [Finding("clock", ERROR, f"the system's clock is {shown}", why, fix)]
    if abs(apart) >= CLOCK_WARNING_MS:
        return [Finding("clock", WARNING, f"the system's clock is {shown}", why, fix)]
    if theirs is None:
        text = (
            "the system's clock is not behind the newest mail; whether it is right cannot be told without asking others"
        )
        return [Finding("clock", OK, text)]
    return [Finding("clock", OK, f"the system's clock agrees with {compared}")]


def _newest(connection: Connection) -> Instant | None:
    # By team: the index begins with it.
    newest = (
        connection.execute(select(func.max(message.c.id)).where(message.c.team_id == team_id)).scalar()
        for team_id in team_ids(connection)
    )
    return max((instant_of(found) for found in newest if found is not None), default=None)


async def look_at_disk(store: Store, around: Surroundings) -> list[Finding]:
    """Whether mail can be taken for some time to come."""
    free, least = store.free_disk_bytes(), around.min_free_disk
    shown = f"{free // 1024**2} MB are free at {store.data_dir}"
    fix = f"free space at {store.data_dir}"
    if free < least:
        text = f"{shown}, less than SENDKIT_MIN_FREE_DISK ({least // 1024**2} MB)"
        return [Finding("disk", ERROR, text, "Mail is refused until there is more.", fix)]
    if free < 2 * least:
        return [Finding("disk", WARNING, shown, f"Below {least // 1024**2} MB mail is refused.", fix)]
    return [Finding("disk", OK, shown)]


async def look_at_database(store: Store, clock: Callable[[], Instant]) -> list[Finding]:
    """Whether it reads and writes."""
    started = time.monotonic()
    try:
        await store.prove(clock())
    except StoreError as error:
        why = "No mail can be taken."
        return [Finding("database", ERROR, str(error), why, "see the database's log, and SENDKIT_DATABASE_URL")]
    return [
        Finding("database", OK, f"{store.engine.name} reads and writes in {(time.monotonic() - started) * 1000:.0f} ms")
    ]


async def look_at_secret_key(store: Store) -> list[Finding]:
    """Whether what was sealed opens, and whether only its owner can read the key."""
    sealed = await store.read(lambda connection: connection.execute(select(dkim_key.c.private_key).limit(1)).scalar())
    if sealed is not None:
        try:
            seal.unseal(store.secret_key, seal.DKIM_PURPOSE, sealed)
        except seal.SealBroken as error:
            fix = "SENDKIT_SECRET_KEY as it was when the domains were added, or `sendkit restore`"
            return [Finding("secret_key", ERROR, f"a DKIM key does not open: {error}", "Mail cannot be signed.", fix)]
    path = store.data_dir / "secret-key"
    if _is_open_to_others(path):
        why = "Whoever has it can unseal the DKIM keys."
        return [Finding("secret_key", WARNING, f"{path} can be read by others", why, f"chmod 600 {path}")]
    return [Finding("secret_key", OK, "what it sealed opens" if sealed else "nothing has been sealed yet")]


def _is_open_to_others(path: Path) -> bool:
    return path.exists() and path.stat().st_mode & 0o077 != 0


async def look_at_queue(store: Store, clock: Callable[[], Instant]) -> list[Finding]:
    """Whether what is due is taken up."""
    waiting, owned = await store.read(email_queries.unsettled_count)
    due = await store.next_due()
    late = 0 if due is None else clock() - due
    if late > OVERDUE_MS:
        text = f"{waiting} recipients wait, the oldest has been due for {late // MINUTE_MS} minutes"
        why = "Mail lies there though it could be tried."
        fix = "`sendkit queue` shows what is held, `sendkit nodes` who delivers: `sendkit serve` with the role deliver does"
        return [Finding("queue", WARNING, text, why, fix)]
    return [Finding("queue", OK, f"{waiting} recipients wait, {owned} are being delivered, nothing is overdue")]
