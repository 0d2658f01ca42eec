"""SPF records and tag lists, read."""

from __future__ import annotations

import pytest

from sendkit_server.wire.spf import Mechanism, SpfRecord, SpfSyntaxError, is_spf, parse_spf
from sendkit_server.wire.tag_list import parse_tags


def test_every_mechanism_is_read():
    text = "v=spf1  ip4:192.0.2.0/24 ip6:2001:DB8::/32 -a/24//64 a:b.test mx:c.test/28 ~include:d.test ?exists:e.test ptr -all exp=x.test"
    assert parse_spf(text) == SpfRecord(
        (
            Mechanism("+", "ip4", network="192.0.2.0/24"),
            Mechanism("+", "ip6", network="2001:db8::/32"),
            Mechanism("-", "a", prefixes=(24, 64)),
            Mechanism("+", "a", "b.test"),
            Mechanism("+", "mx", "c.test", prefixes=(28, 128)),
            Mechanism("~", "include", "d.test"),
            Mechanism("?", "exists", "e.test"),
            Mechanism("+", "ptr"),
            Mechanism("-", "all"),
        )
    )
    assert parse_spf("V=SPF1 Redirect=x.test other=1").redirect == "x.test"


@pytest.mark.parametrize(
    "text",
    [
        "v=spf1 ip4:192.0.2.300", "v=spf1 ip4:2001:db8::1", "v=spf1 ip4", "v=spf1 ip6:192.0.2.1", "v=spf1 include", "v=spf1 include:",
        "v=spf1 nothing:x.test", "v=spf1 a/33", "v=spf1 a//129", "v=spf1 a:", "v=spf1 all:x.test", "v=spf1 ptr/24", "v=spf1 a/x",
        "v=spf1 redirect=a.test redirect=b.test", "v=spf1 redirect=", "v=spf1 \u00e9", "v=spf1 -", "v=spf1 mx.test",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_permerror(text: str):
    with pytest.raises(SpfSyntaxError):
        parse_spf(text)


def test_only_the_whole_version_makes_an_spf_record():
    assert is_spf("v=spf1") and is_spf("V=SPF1 -all")
    assert not is_spf("v=spf10 -all") and not is_spf("spf2.0/pra -all")


def test_tags_may_be_in_any_order_and_have_blanks_around_them():
    assert parse_tags(" p = abc ;k=rsa; ") == {"p": "abc", "k": "rsa"}
    assert parse_tags("v=DMARC1") == {"v": "DMARC1"}
    assert parse_tags("p=;") == {"p": ""}
    assert list(parse_tags("p=a=b=; v=DKIM1") or {}) == ["p", "v"]


@pytest.mark.parametrize("text", ["p", "p=1; p=2", "=1", "p=1;; k=rsa", "1p=2", "v=spf1 -all; ;x"])
def test_what_is_no_tag_list_is_none(text: str):
    assert parse_tags(text) is None
