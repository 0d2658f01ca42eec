"""The journeys' world, with Debian's Postfix at the other end of it."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

sys.path.insert(0, str(Path(__file__).parents[1] / "journeys"))
sys.path.insert(0, str(Path(__file__).parent))

from conftest_world import dns, make_server, sink
from instance import BOUNCES_PORT, MX_PORT, Postfix
from server import Server
from sinks import DnsServer, own_addresses

__all__ = ["dns", "make_server", "sink"]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Signs Postfix's certificate; only SENDKIT_CA_FILE makes it known."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The authority's certificate."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def postfix(authority: trustme.CA) -> Iterator[Postfix]:
    """One instance for all tests of the process; each test's mails have subjects of their own."""
    address, bounces = itertools.islice(own_addresses(), 240, 242)
    running = Postfix(address, bounces, authority, ["mx.there.test", "relay.test"])
    yield running
    running.close()


@pytest.fixture
def make_mta(make_server: Callable[..., Server], dns: DnsServer, postfix: Postfix) -> Callable[..., Server]:
    """Makes servers whose mail for there.test, and through relay.test, comes to Postfix, and its bounces to them."""
    dns.zone["mx.there.test"] = dns.zone["relay.test"] = {"A": [postfix.address]}

    def make(**settings: str) -> Server:
        return make_server(
            SENDKIT_MX_PORT=str(MX_PORT),
            SENDKIT_INBOUND_BIND=f"{postfix.bounces}:{BOUNCES_PORT}",
            SENDKIT_PROBE_DOMAINS="none",
            **settings,
        )

    return make
