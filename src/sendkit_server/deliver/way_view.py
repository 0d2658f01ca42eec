"""The ways that mail can take, for people: `sendkit routes`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sendkit_server.deliver.plan import Way
from sendkit_server.deliver.route import Hosted, Smarthost
from sendkit_server.deliver.warm_up import WarmUps
from sendkit_server.model.instant import DAY_MS, Instant, api_time, day_of


def described(ways: Iterable[Way], warm_ups: WarmUps | None, now: Instant) -> list[dict[str, Any]]:
    """As JSON values. warm_ups: None when no server runs that counts."""
    return [_described(way, warm_ups, now) for way in ways]


def _described(way: Way, warm_ups: WarmUps | None, now: Instant) -> dict[str, Any]:
    down_since = way.health.down_since
    return {
        "route": way.name,
        "to": _leads_to(way),
        "addresses": list(way.source.addresses),
        "ehlo": way.source.ehlo,
        "weight": way.source.weight,
        "status": "down" if down_since is not None else "up",
        "down_since": None if down_since is None else api_time(down_since),
        "reason": way.health.reason if down_since is not None else None,
        "warm_up": _warming(way, warm_ups, now),
    }


def _leads_to(way: Way) -> str:
    match way.route:
        case Smarthost(host=host, port=port):
            return f"{host}:{port}"
        case Hosted(provider=provider):
            return provider.endpoint.host
    return "MX hosts" if way.name != "capture" else "inbox"


def _warming(way: Way, warm_ups: WarmUps | None, now: Instant) -> dict[str, Any] | None:
    warm_up = way.source.warm_up
    cap = None if warm_up is None else warm_up.cap(now)
    if warm_up is None or cap is None:
        return None
    return {
        "since": api_time(warm_up.since),
        "day": (now - warm_up.since) // DAY_MS + 1,
        "days": len(warm_up.caps),
        "cap": cap,
        "sent_today": {} if warm_ups is None else warm_ups.of(way.source.addresses[0], day_of(now)),
    }
