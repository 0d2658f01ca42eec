"""Which addresses may be connected to."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sendkit_server.net.guard import Guard


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.9",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2001:2::1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
        "2606:4700::5efe:10.0.0.1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fd00::5efe:8.8.8.8",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_what_is_not_global_unicast_is_refused(address: str):
    assert Guard().refusal(address, 25) is not None


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)
def test_global_unicast_is_allowed(address: str):
    assert Guard().refusal(address, 25) is None


def test_the_operators_networks_are_allowed_in_every_spelling_and_no_others():
    guard = Guard((ip_network("10.1.0.0/16"), ip_network("fd00::/8")))
    assert guard.refusal("10.1.2.3", 25) is None
    assert guard.refusal("::ffff:10.1.2.3", 25) is None
    assert guard.refusal("fd00::1", 25) is None
    assert guard.refusal("10.2.0.1", 25) is not None
    assert guard.refusal("127.0.0.1", 25) is not None


def test_our_own_listener_is_refused_on_its_port_only():
    guard = Guard((ip_network("127.0.0.0/8"),), frozenset({("127.0.0.1", 2525)}))
    assert "itself" in (guard.refusal("127.0.0.1", 2525) or "")
    assert "itself" in (guard.refusal("::ffff:127.0.0.1", 2525) or "")
    assert guard.refusal("127.0.0.1", 2526) is None


@pytest.mark.parametrize("text", ["localhost", "2130706433", "0x7f.1", "127.1", "1.2.3.4 ", ""])
def test_only_numeric_addresses_are_judged(text: str):
    with pytest.raises(ValueError):
        Guard().refusal(text, 25)
