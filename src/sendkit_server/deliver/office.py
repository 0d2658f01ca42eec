"""What lanes and the deliverer say to each other."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from sendkit_server.deliver.dial import NoConnection
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.plan import Way
from sendkit_server.deliver.room import Load
from sendkit_server.deliver.tls_counts import Session
from sendkit_server.model.instant import Instant
from sendkit_server.model.outcome import Exchange, Outcome

if TYPE_CHECKING:
    from sendkit_server.deliver.lane import Lane


class LaneView(msgspec.Struct, frozen=True):
    """A lane as `GET /queue` shows it."""

    site: str
    route: str
    waiting: int
    in_flight: int
    connections: int
    last_answer: str
    next_attempt_at: Instant | None
    reason: str


class Tried(msgspec.Struct, frozen=True):
    """One try, before its outcomes are known."""

    host: str | None
    address: str | None
    tls: str | None
    started_at: Instant
    milliseconds: int
    transcript: tuple[Exchange, ...]


class Office(Protocol):
    """What a lane needs of the deliverer."""

    def settle(self, parcel: Parcel, way: Way, tried: Tried, outcomes: list[Outcome]) -> None:
        """Write down what became of a parcel."""

    def unreachable(self, parcel: Parcel, way: Way, none: NoConnection, pause_ends: Instant, *, tried: bool) -> None:
        """The lane's site takes no connection: the next way, or wait."""

    def passed_on(self, parcel: Parcel, way: Way, tried: Tried, why: Outcome, *, is_broken: bool) -> None:
        """The way is not for this mail (is_broken: for none): the next way, or it has been tried and waits."""

    def hand_back(self, parcel: Parcel) -> None:
        """Give it up untried: the server shuts down, or the site is another node's."""

    def site_limit(self, site: str, limit: int) -> int:
        """This node's share of a limit of a site; 0 when others have it all."""

    def nodes(self) -> int:
        """Among how many nodes limits are shared."""

    def is_full(self, lane: Load, *, urgent: bool) -> bool:
        """Whether a lane with this load has its fair part of the memory. urgent: even of urgent mail."""

    def eased(self) -> None:
        """A lane that turned mail away has room again."""

    def is_stopped(self, parcel: Parcel) -> bool:
        """Whether it must not be sent just now: its deadline is over, its site is held, an address may be suppressed.
        Then it is the office's again."""

    def may_open(self, lane: Lane) -> bool:
        """Whether one more connection may be opened now; if not, the lane is told when it may."""

    def is_crowded(self) -> bool:
        """Whether another lane waits for a connection."""

    def closed(self) -> None:
        """A connection that was allowed is no more."""

    async def may_go_on(self) -> None:
        """Returns once there are few enough outcomes that are not written yet, and this node's lease holds."""

    def pause_ms(self, failures: int) -> int:
        """How long a lane pauses after so many failures in a row."""

    def count_sessions(self, domain: str, sessions: Sequence[Session]) -> None:
        """How connections for a domain's mail were secured."""

    def return_path(self, parcel: Parcel) -> str:
        """The envelope's sender: names the first recipient where all are at one domain."""

    def now(self) -> Instant:
        """The time."""

    def fault(self, event: str, error: BaseException) -> None:
        """Log a fault of ours."""

    def start(self, work: Coroutine[None, None, None]) -> object:
        """Run it as a task that is looked after."""
