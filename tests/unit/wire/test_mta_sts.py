"""MTA-STS as it is written down: records, policies, and what must not be taken for either."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.wire.mta_sts import (
    MAX_AGE_S,
    MAX_POLICY_BYTES,
    Mode,
    PolicyError,
    StsPolicy,
    parse_policy,
    policy_id,
)

GOOD = "version: STSv1\nmode: enforce\nmx: mx.there.test\nmx: *.there.test\nmax_age: 86400\n"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=STSv1;id=1"], "1"),
        (["v=STSv1 ; id=1 ; "], "1"),
        (["v=STSv1; id=1; ext=some-thing_else;"], "1"),
        (["v=STSv1; ext=x; id=1"], "1"),
        (["v=spf1 -all", "v=STSv1; id=2;", "another's"], "2"),
        ([], None),
        (["v=STSv1"], None),
        (["v=STSv1;"], None),
        (["v=STSv1; id=;"], None),
        (["v=STSv1; id=a-b;"], None),
        (["v=STSv1; id=1; id=2;"], None),
        (["v=STSv1; id=" + "a" * 33], None),
        (["v=STSv1; id=1; ; x=y"], None),
        (["v=STSv2; id=1;"], None),
        (["v=STSv10; id=1;"], None),
        (["V=STSv1; id=1;"], None),
        ([" v=STSv1; id=1;"], None),
        (["v=STSv1; id=1;", "v=STSv1; id=1;"], None),
        (["v=STSv1; id=1;", "v=STSv1; nothing"], None),
    ],
)
def test_exactly_one_well_formed_record_announces_a_policy(texts: list[str], expected: str | None) -> None:
    assert policy_id(texts) == expected


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_policy_is_read_whatever_ends_its_lines(end: str) -> None:
    expected = StsPolicy(Mode.ENFORCE, ("mx.there.test", "*.there.test"), 86400)
    assert parse_policy(GOOD.replace("\n", end).encode()) == expected
    assert parse_policy(GOOD.rstrip("\n").replace("\n", end).encode()) == expected


def test_unknown_fields_are_ignored_and_of_known_ones_the_first_counts() -> None:
    text = "max_age:60  \nversion:STSv1\nx-new: grüße\nmode: testing\nmode: enforce\nmax_age: 1\nmx:  MX.There.Test\n\n"
    assert parse_policy(text.encode()) == StsPolicy(Mode.TESTING, ("mx.there.test",), 60)


def test_mode_none_needs_no_mx_and_a_longer_age_than_a_year_is_a_year() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 9999999999\n") == StsPolicy(Mode.NONE, (), MAX_AGE_S)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no version"),
        (GOOD.replace("STSv1", "STSv2").encode(), "version is not STSv1"),
        (GOOD.replace("enforce", "Enforce").encode(), "mode 'Enforce'"),
        (GOOD.replace("mode: enforce\n", "").encode(), "mode ''"),
        (GOOD.replace("86400", "").encode(), "no max_age"),
        (GOOD.replace("86400", "-1").encode(), "max_age '-1'"),
        (GOOD.replace("86400", "1.5").encode(), "max_age"),
        (GOOD.replace("86400", "12345678901").encode(), "max_age"),
        (GOOD.replace("86400", "８６４００").encode(), "max_age"),
        (b"version: STSv1\nmode: enforce\nmax_age: 60\n", "no mx"),
        (GOOD.replace("*.there.test", "mx.*.there.test").encode(), "mx "),
        (GOOD.replace("*.there.test", "*").encode(), "mx "),
        (GOOD.replace("*.there.test", ".there.test").encode(), "mx "),
        (GOOD.replace("*.there.test", "there.test, other.test").encode(), "mx "),
        (GOOD.encode() + b"<html>\n", "'<html>' is no field"),
        (b"\xff\xfe" + GOOD.encode(), "UTF-8"),
        (GOOD.encode() + b"x: " + b"y" * MAX_POLICY_BYTES, "longer than"),
    ],
)
def test_what_breaks_the_grammar_is_no_policy_and_says_why(raw: bytes, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        parse_policy(raw)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mx.there.test", True),
        ("MX.There.Test.", True),
        ("a.pool.test", True),
        ("pool.test", False),
        ("a.b.pool.test", False),
        ("apool.test", False),
        ("there.test", False),
        ("x.mx.there.test", False),
        ("mx.there.test.evil.test", False),
        ("", False),
    ],
)
def test_a_star_stands_for_exactly_one_label(host: str, allowed: bool) -> None:
    assert StsPolicy(Mode.ENFORCE, ("mx.there.test", "*.pool.test"), 60).allows(host) is allowed


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_garbage_is_refused_and_nothing_else(raw: bytes) -> None:
    for data in (raw, GOOD.encode() + raw):
        try:
            assert parse_policy(data).mode in Mode
        except PolicyError as error:
            assert str(error)


@given(st.lists(st.text(max_size=60) | st.text(max_size=40).map("v=STSv1; id=".__add__), max_size=3))
def test_no_record_makes_an_id_that_is_none(texts: list[str]) -> None:
    found = policy_id(texts)
    assert found is None or (found.isascii() and found.isalnum() and 1 <= len(found) <= 32)


LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(
    st.sampled_from([Mode.ENFORCE, Mode.TESTING]),
    st.lists(st.tuples(st.booleans(), st.lists(LABEL, min_size=1, max_size=4)), min_size=1, max_size=5),
    st.integers(0, MAX_AGE_S),
)
def test_what_is_written_down_is_read_back(mode: Mode, mx: list[tuple[bool, list[str]]], age: int) -> None:
    names = tuple(dict.fromkeys(("*." if star else "") + ".".join(labels) for star, labels in mx))
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {name}" for name in names), f"max_age: {age}"]
    policy = parse_policy("\r\n".join(lines).encode())
    assert policy == StsPolicy(mode, names, age)
    assert all(policy.allows(name.replace("*", "one")) for name in names)
