"""Bounces that real servers sent: the samples in the source archive of flufl.bounce (scripts/peers.sh fetches it)."""

from __future__ import annotations

import email
import tarfile
import time
from pathlib import Path

import pytest
from flufl.bounce import all_failures

from sendkit_server.model.bounce import classify
from sendkit_server.wire.dsn import Action
from sendkit_server.wire.inbound_mail import Kind, read

ARCHIVE = Path(__file__).parents[3] / ".cache" / "bounces" / "flufl_bounce-6.0.0.tar.gz"
SAMPLES = 117


@pytest.fixture(scope="module")
def samples() -> dict[str, bytes]:
    if not ARCHIVE.exists():
        pytest.skip("the source archive of flufl-bounce was not fetched")
    found = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            if "/tests/data/" in member.name and member.name.endswith(".txt"):
                opened = archive.extractfile(member)
                assert opened is not None
                found[Path(member.name).name] = opened.read()
    assert len(found) == SAMPLES
    return found


def test_permanent_failures_are_recognised_with_their_addresses(samples: dict[str, bytes]):
    permanent, recognised, named = 0, 0, 0
    for raw in samples.values():
        _, failed = all_failures(email.message_from_bytes(raw))
        if not failed:
            continue
        permanent += 1
        report = read(raw)
        ours = {address for one in report.recipients if one.action is Action.FAILED for address in one.addresses}
        recognised += report.kind is Kind.BOUNCE and any(one.action is Action.FAILED for one in report.recipients)
        named += {address.decode("utf-8", "replace").lower() for address in failed} <= ours
    assert permanent == 101
    assert recognised / permanent >= 0.97
    assert named / permanent >= 0.95


def test_no_delay_is_taken_for_a_failure(samples: dict[str, bytes]):
    for name, raw in samples.items():
        delayed, failed = all_failures(email.message_from_bytes(raw))
        if delayed and not failed:
            assert not any(one.action is Action.FAILED for one in read(raw).recipients), name


def test_where_no_address_is_to_be_found_none_is_named_as_failed_for_good(samples: dict[str, bytes]):
    for name, raw in samples.items():
        delayed, failed = all_failures(email.message_from_bytes(raw))
        if not delayed and not failed:
            named = [one for one in read(raw).recipients if one.addresses]
            assert not any(classify(one.code, one.enhanced, one.diagnostic).suppresses for one in named), name


def test_each_takes_less_than_fifty_milliseconds(samples: dict[str, bytes]):
    for name, raw in samples.items():
        started = time.process_time()
        read(raw)
        assert time.process_time() - started < 0.05, name
