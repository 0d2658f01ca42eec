"""The return path's token: what was made is read, whatever case it comes back in; what was not is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.model.ids import ALPHABET
from sendkit_server.wire import return_path

SECRET = b"a secret of thirty-two bytes ...."
ID = "msg_01hd5v7p3c9k2m4n6q8r0s1t2v"


@given(
    st.text(st.sampled_from(ALPHABET), min_size=26, max_size=26),
    st.none() | st.integers(min_value=0, max_value=9_999_999),
    st.binary(min_size=16, max_size=40),
)
def test_what_was_made_is_read_in_any_case(identifier: str, n: int | None, secret: bytes) -> None:
    local = return_path.make(f"msg_{identifier}", n, secret)
    assert len(local) <= 64
    for spelling in (local, local.upper(), local.swapcase()):
        assert return_path.parse(spelling, secret) == (f"msg_{identifier}", n)


def test_what_mail_on_its_way_carries_goes_on_to_be_made() -> None:
    made = "b-0123456789abcdefghjkmnpqrs-3-pm4m13al0p16d34gmucb"
    assert return_path.make("msg_0123456789abcdefghjkmnpqrs", 3, b"secret") == made


def test_every_changed_character_makes_it_nothing() -> None:
    local = return_path.make(ID, 7, SECRET)
    for at, character in enumerate(local):
        other = "a" if character != "a" else "b"
        assert return_path.parse(local[:at] + other + local[at + 1 :], SECRET) is None


def test_another_secret_makes_it_nothing() -> None:
    assert return_path.parse(return_path.make(ID, None, SECRET), SECRET[::-1]) is None


@pytest.mark.parametrize("n", ["00", "-1", "+1", "١", "12345678", ""])
def test_a_number_is_spelled_one_way(n: str) -> None:
    made = return_path.make(ID, 1, SECRET)
    assert return_path.parse(made.replace("-1-", f"-{n}-"), SECRET) is None


@given(st.text(max_size=80))
def test_other_local_parts_are_nothing(text: str) -> None:
    assert return_path.parse(text, SECRET) is None
