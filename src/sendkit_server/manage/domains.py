"""Sending domains: add, list, show, and the DNS records that their owner publishes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.domain_wishes import NO_WISH, TLS_POLICIES, DomainWish
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.address import AddressError, ascii_domain
from sendkit_server.model.instant import SECOND_MS
from sendkit_server.store import seal
from sendkit_server.store.queries import domains as queries
from sendkit_server.store.queries.pages import Part, Window
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store
from sendkit_server.wire import dkim_keys
from sendkit_server.wire.dkim import Algorithm

RSA: Algorithm = "rsa-sha256"
ED25519: Algorithm = "ed25519-sha256"
SELECTORS: dict[Algorithm, str] = {RSA: "sendkit", ED25519: "sendkit-ed"}
DEFAULT_REGION = "local"
DEFAULT_RETURN_PATH = "send"
RECORD_TTL_S = 3600
TAKEN = "Another account of this server has verified the domain."
MX_PRIORITY = 10


class DnsNames(msgspec.Struct, frozen=True):
    """What the records to publish depend on beside the domain.

    hostname: MX of the return path.  spf: mechanisms such as `ip4:192.0.2.1` or `include:relay.example`, in order.
    algorithms: which DKIM keys sign.  tracking: the host, or address, that tracking links lead to.
    """

    hostname: str
    spf: tuple[str, ...]
    algorithms: tuple[Algorithm, ...] = (RSA,)
    tracking: str = ""


class DnsRecord(msgspec.Struct, frozen=True):
    """One record to publish. name: fully qualified, without the last dot.  kind: DKIM, SPF, MX, Tracking or DMARC.
    status: `pending`, `verified` or `failed`, as DNS was last seen."""

    kind: str
    type: str
    name: str
    value: str
    status: str = "pending"
    priority: int | None = None

    @property
    def key(self) -> str:
        """What its status is kept under."""
        return queries.record_key(self.kind, self.name)

    def zone_line(self) -> str:
        """The record as one line of a BIND zone file; a long TXT value in strings of ≤ 255 bytes (RFC 1035 3.3)."""
        if self.type == "MX":
            data = f"{self.priority} {self.value}."
        elif self.type == "CNAME":
            data = f"{self.value}."
        elif self.type != "TXT":
            data = self.value
        else:
            pieces = [self.value[at : at + 255] for at in range(0, len(self.value), 255)]
            data = " ".join('"' + piece.replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces)
        return f"{self.name}. {RECORD_TTL_S} IN {self.type} {data}"


class Domain(msgspec.Struct, frozen=True):
    """A domain with its records."""

    row: AnyRow
    records: tuple[DnsRecord, ...]

    @property
    def reason(self) -> str | None:
        """Why it is not verified though its records are; None otherwise."""
        advice = ("DMARC", "Tracking")
        right = all(record.status == "verified" for record in self.records if record.kind not in advice)
        return TAKEN if self.row.status == "failed" and right else None


async def add_domain(
    store: Store,
    team_id: int,
    name: str,
    names: DnsNames,
    *,
    trust: bool,
    wish: DomainWish = NO_WISH,
    region: str = DEFAULT_REGION,
    by: Actor,
) -> Domain:
    """Adds a domain with its DKIM keys. trust: the operator vouches for it, no DNS needed.  region: a word that is kept and told;
    there is only one here.

    Adding a domain that is there already with trust vouches for it; without, it is an error.
    """
    try:
        domain_name = ascii_domain(name.strip())
    except AddressError as error:
        raise ManageError(f"{name!r} is no domain name: {error}") from None
    existing = await store.read(lambda connection: queries.find_domain(connection, team_id, domain_name))
    if existing is not None:
        if not trust:
            raise ManageError(
                f"the domain {domain_name} has been added already; see `sendkit domains dns {domain_name}`"
            )
        changes = {"trusted": True, **_columns(wish, existing)}
        await store.write(lambda connection: _change(connection, existing, changes, by))
        return await _existing(store, team_id, domain_name, names)
    domain_id = by.new_id("dom")
    values = {
        "team_id": team_id,
        "id": domain_id,
        "name": domain_name,
        "status": "pending",
        "trusted": trust,
        "region": region,
        "open_tracking": False,
        "click_tracking": False,
        "tls": TLS_POLICIES[0],
        "record_status": "{}",
        "return_path": DEFAULT_RETURN_PATH,
        "created_at": by.now,
        "updated_at": by.now,
        **wish.columns(domain_name, DEFAULT_RETURN_PATH, None),
    }
    keys = [_new_key(store.secret_key, team_id, domain_id, algorithm, by) for algorithm in (RSA, ED25519)]

    def write(connection: Connection) -> None:
        queries.insert_domain(connection, values, keys)
        by.record(connection, team_id, "domains.add", domain_id, {"name": domain_name, "trusted": trust})

    try:
        await store.write(write)
    except IntegrityError:
        raise ManageError(f"the domain {domain_name} has been added already") from None
    return await _existing(store, team_id, domain_name, names)


async def change_domain(
    store: Store, team_id: int, name_or_id: str, wish: DomainWish, names: DnsNames, by: Actor
) -> Domain | None:
    """Changes what is wished for; None when the team has no such domain. ManageError.

    With another return path a verified domain stays verified, and mail leaves with the installation's own until the new
    name's records are seen in DNS.
    """

    def write(connection: Connection) -> str | None:
        row = queries.find_domain(connection, team_id, named(name_or_id))
        if row is None:
            return None
        if changes := _columns(wish, row):
            _change(connection, row, changes, by)
        return str(row.id)

    found = await store.write(write)
    return None if found is None else await show_domain(store, team_id, found, names)


async def delete_domain(store: Store, team_id: int, name_or_id: str, by: Actor) -> str | None:
    """Removes a domain with its keys; its id, None when the team has no such domain. Mail of it that still waits stays
    unsigned, and so waits until its retry window is over or the domain is added again."""

    def write(connection: Connection) -> str | None:
        row = queries.find_domain(connection, team_id, named(name_or_id))
        if row is None:
            return None
        queries.delete_domain(connection, team_id, row.id)
        by.record(connection, team_id, "domains.delete", row.id, {"name": row.name})
        return str(row.id)

    return await store.write(write)


async def new_dkim_key(store: Store, team_id: int, name_or_id: str, names: DnsNames, by: Actor) -> Domain | None:
    """Begins a rotation: a new RSA key under a selector of its own, whose record is to be published. It signs, and the old
    one is retired, once DNS shows it (`verify`, or the hourly look). None when the team has no such domain."""

    def write(connection: Connection) -> str | None:
        row = queries.find_domain(connection, team_id, named(name_or_id))
        if row is None:
            return None
        if any(key.active_from is None for key in queries.dkim_keys(connection, team_id, row.id)):
            raise ManageError(f"a new key of {row.name} waits to be published already: see its records")
        key = _new_key(store.secret_key, team_id, row.id, RSA, by)
        key["selector"] = f"sendkit-{by.now // SECOND_MS:x}"
        queries.insert_key(connection, {**key, "active_from": None})
        by.record(connection, team_id, "domains.rotate", row.id, {"name": row.name, "selector": key["selector"]})
        return str(row.id)

    found = await store.write(write)
    return None if found is None else await show_domain(store, team_id, found, names)


def named(name_or_id: str) -> str:
    """What a domain is looked up by: an id as it is, a name in any spelling."""
    try:
        return name_or_id if name_or_id.startswith("dom_") else ascii_domain(name_or_id.strip())
    except AddressError:
        return name_or_id.lower()


async def show_domain(store: Store, team_id: int, name_or_id: str, names: DnsNames) -> Domain | None:
    """A domain by id or name; None when the team has no such domain."""
    return await store.read(lambda connection: _with_records(connection, team_id, named(name_or_id), names))


async def list_domains(store: Store, team_id: int, names: DnsNames, window: Window) -> tuple[Sequence[Domain], Part]:
    """Domains, newest first, and how they stand in the list."""

    def read(connection: Connection) -> tuple[Sequence[Domain], Part]:
        part = queries.list_domains(connection, team_id, window)
        return [
            Domain(row, dns_records(row, queries.dkim_keys(connection, team_id, row.id), names)) for row in part.rows
        ], part

    return await store.read(read)


def dns_records(row: AnyRow, keys: Sequence[AnyRow], names: DnsNames) -> tuple[DnsRecord, ...]:
    """DKIM (one a signing algorithm), SPF and MX of the return path, and as advice the host of tracking links and DMARC."""
    statuses: dict[str, str] = json.loads(row.record_status)
    spf = " ".join(["v=spf1", *names.spf, "~all"])
    records = [
        DnsRecord("DKIM", "TXT", f"{key.selector}._domainkey.{row.name}", key.public_record)
        for key in keys
        if key.algorithm in names.algorithms
    ]
    records += [
        DnsRecord("SPF", "TXT", queries.return_path_of(row), spf),
        DnsRecord("MX", "MX", queries.return_path_of(row), names.hostname, priority=MX_PRIORITY),
    ]
    if row.tracking_host is not None:
        records.append(DnsRecord("Tracking", _kind_to(names.tracking), row.tracking_host, names.tracking))
    records.append(DnsRecord("DMARC", "TXT", f"_dmarc.{row.name}", "v=DMARC1; p=none;"))
    return tuple(msgspec.structs.replace(record, status=statuses.get(record.key, record.status)) for record in records)


def _kind_to(host: str) -> str:
    """The type of record that leads to a host, or to an address."""
    try:
        return "A" if ip_address(host).version == 4 else "AAAA"
    except ValueError:
        return "CNAME"


def _columns(wish: DomainWish, row: AnyRow) -> dict[str, object]:
    return wish.columns(row.name, row.return_path, row.tracking_host)


def _change(connection: Connection, row: AnyRow, changes: dict[str, object], by: Actor) -> None:
    queries.update_domain(connection, row.team_id, row.id, {**changes, "updated_at": by.now})
    by.record(connection, row.team_id, "domains.set", row.id, {"name": row.name, **changes})


async def _existing(store: Store, team_id: int, name: str, names: DnsNames) -> Domain:
    found = await show_domain(store, team_id, name, names)
    assert found is not None
    return found


def _with_records(connection: Connection, team_id: int, name_or_id: str, names: DnsNames) -> Domain | None:
    row = queries.find_domain(connection, team_id, name_or_id)
    if row is None:
        return None
    return Domain(row, dns_records(row, queries.dkim_keys(connection, team_id, row.id), names))


def _new_key(secret_key: str, team_id: int, domain_id: str, algorithm: Algorithm, by: Actor) -> dict[str, object]:
    private = dkim_keys.generate(algorithm)
    return {
        "team_id": team_id,
        "id": by.new_id("dkm"),
        "domain_id": domain_id,
        "selector": SELECTORS[algorithm],
        "algorithm": algorithm,
        "private_key": seal.seal(secret_key, seal.DKIM_PURPOSE, private),
        "public_record": dkim_keys.public_record(private),
        "created_at": by.now,
    }
