"""DANE on chains of every kind; whole conversations are in the tests of delivery."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.net.dane import dane_problem
from sendkit_server.net.tls_client import Trouble
from sendkit_server.wire.tlsa import Tlsa

NOW = datetime.now(UTC)
ROOT = trustme.CA()
INNER = ROOT.create_child_ca()
STRANGER = trustme.CA()


def ders(*blobs: trustme.Blob) -> list[bytes]:
    return [x509.load_pem_x509_certificate(blob.bytes()).public_bytes(Encoding.DER) for blob in blobs]


LEAF, INNER_DER = ders(*INNER.issue_cert("mx.a.test").cert_chain_pems)
(ROOT_DER,) = ders(ROOT.cert_pem)
(STRANGER_DER,) = ders(STRANGER.cert_pem)


def by(usage: int, der: bytes) -> Tlsa:
    return Tlsa(usage, 0, 1, hashlib.sha256(der).digest())


@pytest.mark.parametrize(
    ("records", "chain", "trouble"),
    [
        ([by(3, LEAF)], [LEAF], None),
        ([by(3, STRANGER_DER), by(3, LEAF)], [LEAF, INNER_DER], None),
        ([by(3, INNER_DER)], [LEAF, INNER_DER], Trouble.VALIDATION),
        ([by(2, INNER_DER)], [LEAF, INNER_DER], None),
        ([by(2, INNER_DER)], [LEAF, INNER_DER, ROOT_DER], None),
        ([by(2, ROOT_DER)], [LEAF, INNER_DER, ROOT_DER], None),
        ([by(2, ROOT_DER)], [LEAF, ROOT_DER, INNER_DER], None),
        ([by(2, ROOT_DER)], [LEAF, INNER_DER], Trouble.VALIDATION),
        ([by(2, ROOT_DER)], [LEAF, ROOT_DER], Trouble.NOT_TRUSTED),
        ([by(2, STRANGER_DER)], [LEAF, STRANGER_DER], Trouble.NOT_TRUSTED),
        ([by(2, LEAF)], [LEAF], Trouble.VALIDATION),
        ([by(3, STRANGER_DER), by(2, INNER_DER)], [LEAF, INNER_DER], None),
        ([by(3, LEAF), by(2, STRANGER_DER)], [LEAF, INNER_DER], None),
        ([by(3, LEAF)], [], Trouble.VALIDATION),
        ([by(3, LEAF)], [b"garbage", LEAF], Trouble.VALIDATION),
        ([by(2, INNER_DER)], [LEAF, b"garbage", INNER_DER], Trouble.VALIDATION),
    ],
)
def test_a_chain_satisfies_one_of_its_records_or_none(records, chain, trouble):
    problem = dane_problem(records, chain, ("mx.a.test",), NOW)
    assert (problem.trouble if problem else None) == trouble


def test_an_issuers_certificate_is_for_one_of_the_hosts_names():
    records, chain = [by(2, INNER_DER)], [LEAF, INNER_DER]
    assert dane_problem(records, chain, ("other.a.test", "mx.a.test"), NOW) is None
    problem = dane_problem(records, chain, ("other.a.test", "a.test"), NOW)
    assert problem is not None and problem.trouble is Trouble.HOST_MISMATCH


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_garbage_satisfies_nothing(chain):
    assert dane_problem([by(2, INNER_DER), by(3, LEAF)], chain, ("mx.a.test",), NOW) is not None
