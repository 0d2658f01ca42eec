"""TLSA records: which can be used, and which certificate each means."""

from __future__ import annotations

import hashlib

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.wire.tlsa import Tlsa, usable

CERTIFICATE = x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes())
OTHER = x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes())
DER = CERTIFICATE.public_bytes(Encoding.DER)
KEY = CERTIFICATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("usage", [2, 3])
@pytest.mark.parametrize(("selector", "selected"), [(0, DER), (1, KEY)], ids=["certificate", "key"])
@pytest.mark.parametrize(
    ("matching", "digest"),
    [(0, bytes), (1, lambda raw: hashlib.sha256(raw).digest()), (2, lambda raw: hashlib.sha512(raw).digest())],
    ids=["whole", "sha256", "sha512"],
)
def test_each_kind_of_record_means_its_certificate_and_no_other(usage, selector, selected, matching, digest):
    record = Tlsa(usage, selector, matching, digest(selected))
    assert record.is_usable
    assert record.matches(CERTIFICATE) and not record.matches(OTHER)


@pytest.mark.parametrize(
    "record",
    [
        Tlsa(0, 1, 1, bytes(32)),
        Tlsa(1, 1, 1, bytes(32)),
        Tlsa(4, 1, 1, bytes(32)),
        Tlsa(255, 1, 1, bytes(32)),
        Tlsa(3, 2, 1, bytes(32)),
        Tlsa(3, 1, 3, bytes(32)),
        Tlsa(3, 1, 1, bytes(31)),
        Tlsa(3, 1, 1, bytes(64)),
        Tlsa(3, 1, 2, bytes(32)),
        Tlsa(3, 1, 0, b""),
    ],
)
def test_what_smtp_does_not_know_is_not_usable(record):
    assert not record.is_usable
    assert usable([record]) == ()


def test_a_weak_digest_is_not_looked_at_beside_a_strong_one_of_the_same_kind():
    weak, strong, whole = Tlsa(3, 1, 1, bytes(32)), Tlsa(3, 1, 2, bytes(64)), Tlsa(3, 1, 0, KEY)
    other, broken = Tlsa(2, 1, 1, bytes(32)), Tlsa(3, 1, 2, bytes(9))
    assert usable([weak, strong, whole, other]) == (strong, whole, other)
    assert usable([weak, broken]) == (weak,)


def test_a_whole_issuer_can_stand_in_dns():
    assert Tlsa(2, 0, 0, DER).certificate == CERTIFICATE
    assert Tlsa(2, 0, 0, b"no certificate").certificate is None
    assert Tlsa(3, 0, 0, DER).certificate is None


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80))
def test_garbage_matches_nothing(usage, selector, matching, data):
    record = Tlsa(usage, selector, matching, data)
    assert not (record.is_usable and record.matches(CERTIFICATE))
    assert record.certificate is None
