"""DKIM keys: both kinds are made, loaded from both forms, and published in the form the standards name."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from sendkit_server.wire import dkim_keys
from sendkit_server.wire.dkim import Algorithm


@pytest.mark.parametrize("algorithm", ["rsa-sha256", "ed25519-sha256"])
def test_a_key_signs_the_same_from_der_and_from_pem(algorithm: Algorithm) -> None:
    der = dkim_keys.generate(algorithm)
    pem = load_der_private_key(der, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    from_der, from_pem = (dkim_keys.load(form, domain="shop.example", selector="s1") for form in (der, pem))
    assert (from_der.algorithm, from_der.domain, from_der.selector) == (algorithm, "shop.example", "s1")
    assert from_der.sign(b"data") == from_pem.sign(b"data")
    assert from_der.sign(b"data") != from_der.sign(b"other data")
    assert dkim_keys.public_record(der) == dkim_keys.public_record(pem)


def test_the_records_name_their_kind() -> None:
    assert dkim_keys.public_record(dkim_keys.generate("rsa-sha256")).startswith("v=DKIM1; k=rsa; p=MIIBIjAN")
    record = dkim_keys.public_record(dkim_keys.generate("ed25519-sha256"))
    assert record.startswith("v=DKIM1; k=ed25519; p=")
    assert len(record.partition("p=")[2]) == 44


def test_two_keys_are_never_the_same() -> None:
    assert dkim_keys.generate("ed25519-sha256") != dkim_keys.generate("ed25519-sha256")


def test_other_kinds_of_keys_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="RSA or Ed25519"):
        dkim_keys.load(other, domain="shop.example", selector="s1")
    with pytest.raises(ValueError, match="deserialize"):
        dkim_keys.public_record(b"no key at all")
