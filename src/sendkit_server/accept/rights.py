"""What a key may do with a mail, the same for both doors and in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from sendkit_server.model import refusal
from sendkit_server.model.address import AddressError, Mailbox, parse_mailbox
from sendkit_server.model.mail import NO_RESTRICTIONS, ApiKey
from sendkit_server.model.peer import peer_address
from sendkit_server.model.permissions import EMAILS_SEND
from sendkit_server.model.refusal import NotAllowed, Refusal, restricted_to


def to_send(key: ApiKey, client: str) -> Refusal | None:
    """Why the key may not send at all; None when it may. client: the caller's address."""
    if EMAILS_SEND not in key.permissions:
        return refusal.restricted(EMAILS_SEND)
    if (refused := from_network(key, client)) is not None:
        return refused
    return None if key.team_paused is None else refusal.paused(key.team_paused)


def from_network(key: ApiKey, client: str) -> Refusal | None:
    """Why the key may not be used from an address; None when it may."""
    networks = key.restrictions.networks
    if not networks or _is_within(client, networks):
        return None
    where = f"not from {client}" if client else "not from an unknown address"
    return restricted_to(f"This API key may be used only from {_listed(networks)}, {where}.")


def may_use_domain(key: ApiKey, domain_id: str) -> bool:
    """Whether the key may send from this domain of its team."""
    allowed = key.restrictions.domain_ids or (() if key.domain_id is None else (key.domain_id,))
    return not allowed or domain_id in allowed


def is_bound_to_domains(key: ApiKey) -> bool:
    """Whether it may send only from some domains."""
    return key.domain_id is not None or bool(key.restrictions.domain_ids)


def check_sender(key: ApiKey, from_: Mailbox) -> None:
    """NotAllowed when the key may not use this From address."""
    senders = key.restrictions.senders
    if senders and not any(_matches(from_, pattern) for pattern in senders):
        raise NotAllowed(restricted_to(f"This API key may send only from {_listed(senders)}."))


def check_recipients(key: ApiKey, recipients: Sequence[Mailbox]) -> None:
    """NotAllowed when the key may not send to one of them."""
    allowed = key.restrictions.recipient_domains
    if not allowed:
        return
    for recipient in recipients:
        if recipient.domain not in allowed:
            raise NotAllowed(
                restricted_to(f"This API key may send only to {_listed(allowed)}, not to {recipient.address}.")
            )


def rewritten(key: ApiKey, from_: Mailbox) -> Mailbox | None:
    """The From that a key with rewrite_from uses instead of one that it may not use; None: it has none."""
    if key.restrictions is NO_RESTRICTIONS or not key.restrictions.rewrite_from:
        return None
    for sender in key.restrictions.senders:
        if not sender.startswith("*"):
            try:
                own = parse_mailbox(sender)
            except AddressError:
                return None
            return Mailbox(own.local, own.domain, from_.name or own.name)
    return None


def _matches(from_: Mailbox, pattern: str) -> bool:
    if pattern.startswith("*@"):
        return from_.domain == pattern[2:]
    return from_.matching == pattern


# Asked twice a mail; an application sends from few addresses, and reading them takes longer than all the rest.
@lru_cache(maxsize=4096)
def _is_within(client: str, networks: tuple[str, ...]) -> bool:
    address = peer_address(client) if client else None
    return address is not None and any(address in _network(each) for each in networks)


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text, strict=False)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
