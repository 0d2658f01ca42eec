"""Wrong keys and passwords: who waits, for how long, and who does not."""

from __future__ import annotations

import pytest

from sendkit_server.manage import guesses as module
from sendkit_server.manage.guesses import LIMITS, WINDOW_S, Guess, Guesses, Kind, TooManyGuesses

KEYS, SIGN_INS = LIMITS[Kind.KEY], LIMITS[Kind.SIGN_IN]
SECRET = "sk_live_AbCd" + "x" * 40


class World:
    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.guesses = Guesses(lambda: self.now_s)

    def wrong_keys(self, count: int, host: str = "192.0.2.1", secret: str = SECRET) -> list[int | None]:
        """The seconds that each has to wait; None: it was answered as wrong."""
        waits = [self.guesses.wrong_key(host, secret) for _ in range(count)]
        return [None if wait is None else wait.seconds for wait in waits]

    def sign_in_waits(self, host: str = "192.0.2.1", account: str = "ann@there.test") -> int | None:
        try:
            self.guesses.check_sign_in(account, host)
        except TooManyGuesses as error:
            return error.wait.seconds
        return None

    def wrong_sign_ins(self, count: int, host: str = "192.0.2.1", account: str = "ann@there.test") -> None:
        for _ in range(count):
            self.guesses.wrong_sign_in(account, host)


@pytest.fixture
def world() -> World:
    return World()


def test_a_client_waits_once_its_wrong_keys_have_reached_the_limit_until_the_first_is_old(world: World) -> None:
    assert world.wrong_keys(1, secret="x") == [None]
    world.now_s += 60
    assert world.wrong_keys(KEYS, secret="y") == [None] * (KEYS - 1) + [540]
    world.now_s += 539
    assert world.wrong_keys(2) == [1, 1], "waiting does not make it longer"
    world.now_s += 1
    assert world.wrong_keys(2) == [None, 60]


def test_a_network_of_ipv6_is_one_client_and_others_are_others(world: World) -> None:
    for n in range(KEYS):
        assert world.wrong_keys(1, f"2001:db8:1:2::{n:x}", "x") == [None]
    assert world.wrong_keys(1, "2001:db8:1:2:ffff::", "x") == [600]
    assert world.wrong_keys(1, "2001:db8:1:3::", "x") == [None]
    assert world.wrong_keys(1, "192.0.2.1", "x") == [None]


def test_of_a_prefix_that_is_guessed_from_everywhere_those_wait_who_were_wrong_about_it(world: World) -> None:
    for n in range(KEYS):
        assert world.wrong_keys(1, f"192.0.2.{n}") == [None]
    assert world.wrong_keys(1, "192.0.2.7") == [600]
    assert world.wrong_keys(1, "192.0.2.7", "sk_live_EfGh") == [None]
    assert world.wrong_keys(2, "198.51.100.1") == [None, 600], (
        "whoever comes with it for the first time hears that it is wrong"
    )


def test_what_does_not_look_like_a_key_has_no_prefix(world: World) -> None:
    for n in range(KEYS):
        assert world.wrong_keys(1, f"192.0.2.{n}", "hunter2") == [None]
    assert world.wrong_keys(2, "192.0.2.7", "hunter2") == [None, None]
    assert "hunter2" not in repr(world.guesses.take_untold(100))


def test_an_account_is_locked_for_those_who_were_wrong_about_it_and_for_nobody_else(world: World) -> None:
    for n in range(SIGN_INS):
        world.wrong_sign_ins(1, f"192.0.2.{n}")
    world.now_s += 100
    assert world.sign_in_waits("192.0.2.3") == 500
    assert world.sign_in_waits("198.51.100.1") is None
    assert world.sign_in_waits("192.0.2.3", "eve@there.test") is None


def test_keys_and_sign_ins_are_counted_apart(world: World) -> None:
    world.wrong_keys(KEYS)
    assert world.sign_in_waits() is None
    world.wrong_sign_ins(SIGN_INS)
    assert world.wrong_keys(1, "192.0.2.2") == [None]
    assert world.sign_in_waits() == 600


def test_that_somebody_waits_is_new_once(world: World) -> None:
    world.wrong_keys(KEYS)
    waits = [world.guesses.wrong_key("192.0.2.1", SECRET) for _ in range(3)]
    assert [wait is not None and wait.is_new for wait in waits] == [True, False, False]
    world.now_s += WINDOW_S
    world.wrong_keys(KEYS)
    assert (again := world.guesses.wrong_key("192.0.2.1", SECRET)) is not None and again.is_new


def test_what_was_heard_counts_from_when_it_was(world: World) -> None:
    world.wrong_keys(KEYS - 3, secret="x")
    heard = Guess(Kind.KEY, "192.0.2.1", "")
    world.guesses.hear(heard, 2, age_s=590)
    assert world.wrong_keys(2, secret="x") == [None, 10]
    world.guesses.hear(heard, 1_000_000, age_s=100)
    assert world.wrong_keys(1, secret="x") == [500]
    world.guesses.hear(Guess("palm", "192.0.2.1", ""), 1, age_s=0)
    assert not any(guess.kind == "palm" for guess in world.guesses.take_untold(100))


def test_what_others_do_not_know_is_told_once_or_comes_back(world: World) -> None:
    world.wrong_keys(2)
    world.wrong_sign_ins(1)
    world.guesses.hear(Guess(Kind.KEY, "192.0.2.9", ""), 1, age_s=0)
    first = world.guesses.take_untold(1)
    assert first == {Guess("key", "192.0.2.1", "sk_live_AbCd"): 2}
    [(guess, count)] = world.guesses.take_untold(9).items()
    assert (guess.kind, guess.client, count) == ("sign-in", "192.0.2.1", 1) and "ann" not in guess.target
    assert world.guesses.take_untold(9) == {}
    world.wrong_keys(1)
    world.guesses.put_back(first)
    assert world.guesses.take_untold(9) == {Guess("key", "192.0.2.1", "sk_live_AbCd"): 3}


def test_a_flood_leaves_bounded_traces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 30)
    monkeypatch.setattr(module, "MAX_UNTOLD", 40)
    world.wrong_keys(1_000, "192.0.2.1")
    assert sum(world.guesses.take_untold(100).values()) == KEYS, "what has to wait is not counted"
    for n in range(100):
        world.wrong_keys(1, f"198.51.100.{n}", f"sk_live_{n:04}")
    counts = world.guesses._counts[Kind.KEY]
    assert [len(table._seen) for table in (counts._clients, counts._targets, counts._pairs)] == [30, 30, 30]
    assert world.wrong_keys(1, "198.51.100.99") == [None] and len(world.guesses.take_untold(1_000)) == 40
