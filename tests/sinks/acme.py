"""A certificate authority on loopback that speaks the part of ACME (RFC 8555) that clients use, and fails as told.

    async with AcmeSink(context) as acme:
        …SENDKIT_ACME_DIRECTORY=acme.directory…
        acme.look_at(http=port, tls=port)       # where it looks for answers, and waits to be told: names are 127.0.0.1 to it

Signatures, nonces and URLs of requests are checked, answers are really fetched (http-01, tls-alpn-01), and a certificate
is signed only for the names that were proved.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from sinks.https import requests
from sinks.server import LoopbackServer

PROBLEM = "urn:ietf:params:acme:error:"
JSON = "application/json"


class Refusal(Exception):
    """A request that is answered with a problem document."""

    def __init__(self, status: int, code: str, detail: str, retry_after: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.retry_after = status, code, detail, retry_after


class AcmeSink(LoopbackServer):
    """See above. context: of its own HTTPS, for localhost.

    lifetime_s: of the certificates.  refusing: what newOrder is answered while it is set.  bad_nonces: how many good
    nonces are still to be refused.  issued: the names, in order.  tried: how many orders there were.
    elsewhere: names that lead to somebody who does not answer.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(tls=context)
        self._http_port = self._tls_port = 0
        self._told_where = asyncio.Event()
        self.lifetime_s = 90 * 86_400.0
        self.refusing: Refusal | None = None
        self.bad_nonces = 0
        self.issued: list[str] = []
        self.tried = 0
        self.elsewhere: set[str] = set()
        self.accounts: dict[str, dict[str, Any]] = {}
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._ca = self._made_ca()
        self._nonces: set[str] = set()
        self._orders: dict[str, dict[str, Any]] = {}

    @property
    def base(self) -> str:
        """Its URL."""
        return f"https://localhost:{self.port}"

    @property
    def directory(self) -> str:
        """As SENDKIT_ACME_DIRECTORY takes it."""
        return f"{self.base}/dir"

    @property
    def root(self) -> str:
        """The root of what it signs, PEM."""
        return self._ca.public_bytes(serialization.Encoding.PEM).decode()

    def look_at(self, *, http: int = 0, tls: int = 0) -> None:
        """The ports where answers are given."""
        self._http_port, self._tls_port = http, tls
        self._told_where.set()

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            writer.write(self._answer(request.method, request.path, request.body))
            await writer.drain()

    def _answer(self, method: str, path: str, body: bytes) -> bytes:
        try:
            if path == "/dir":
                parts = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order", "revokeCert": "revoke"}
                return self._reply(200, {key: f"{self.base}/{value}" for key, value in parts.items()})
            if path == "/nonce":
                return self._reply(200, "", kind=None)
            if method != "POST":
                raise Refusal(405, "malformed", "POST it")
            jwk, payload = self._signed(path, json.loads(body))
            return self._posted(path.strip("/").split("/"), jwk, payload)
        except Refusal as refused:
            more = {} if refused.retry_after is None else {"Retry-After": refused.retry_after}
            problem = {"type": PROBLEM + refused.code, "detail": refused.detail, "status": refused.status}
            return self._reply(refused.status, problem, kind="application/problem+json", more=more)

    def _reply(
        self, status: int, content: Any, *, kind: str | None = JSON, more: dict[str, str] | None = None
    ) -> bytes:
        raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        nonce = secrets.token_urlsafe(16)
        self._nonces.add(nonce)
        headers = {"Replay-Nonce": nonce, "Content-Length": str(len(raw)), **(more or {})}
        if kind is not None:
            headers["Content-Type"] = kind
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {status} x\r\n{lines}\r\n".encode() + raw

    def _signed(self, path: str, jws: dict[str, str]) -> tuple[dict[str, str], Any]:
        """The signer's key and what was signed, if the signature is good (RFC 8555 6.2)."""
        protected = json.loads(_unbase64(jws["protected"]))
        if protected["nonce"] not in self._nonces or self.bad_nonces > 0:
            self.bad_nonces = max(0, self.bad_nonces - 1)
            raise Refusal(400, "badNonce", "this nonce is not good")
        self._nonces.discard(protected["nonce"])
        if protected["url"] != self.base + path:
            raise Refusal(400, "malformed", f"signed for {protected['url']}")
        if "jwk" in protected:
            jwk = protected["jwk"]
        elif protected["kid"] in self.accounts:
            jwk = self.accounts[protected["kid"]]["jwk"]
        else:
            raise Refusal(400, "accountDoesNotExist", "no such account")
        numbers = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), ec.SECP256R1())
        signature = _unbase64(jws["signature"])
        der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        numbers.public_key().verify(der, f"{jws['protected']}.{jws['payload']}".encode(), ec.ECDSA(hashes.SHA256()))
        payload = _unbase64(jws["payload"])
        return jwk, json.loads(payload) if payload else None

    # -- ACME ----------------------------------------------------------------------------------------------------

    def _posted(self, path: list[str], jwk: dict[str, str], payload: Any) -> bytes:
        match path:
            case ["account"]:
                return self._new_account(jwk, payload)
            case ["order"]:
                return self._new_order(jwk, payload)
            case ["order", number]:
                return self._reply(200, self._shown(number))
            case ["authorization", number]:
                return self._reply(200, self._orders[number]["authorization"])
            case ["challenge", number, kind]:
                return self._challenge(number, kind)
            case ["finalize", number]:
                return self._finalize(number, payload)
            case ["certificate", number]:
                return self._reply(200, self._orders[number]["chain"], kind="application/pem-certificate-chain")
        raise Refusal(404, "malformed", "no such resource")

    def _new_account(self, jwk: dict[str, str], payload: Any) -> bytes:
        uri = f"{self.base}/account/{_thumbprint(jwk)}"
        status = 200 if uri in self.accounts else 201
        if payload["termsOfServiceAgreed"] is not True:
            raise Refusal(403, "userActionRequired", "agree to the terms")
        self.accounts.setdefault(uri, {"contact": payload["contact"], "jwk": jwk})
        return self._reply(status, {"status": "valid"}, more={"Location": uri})

    def _new_order(self, jwk: dict[str, str], payload: Any) -> bytes:
        self.tried += 1
        if self.refusing is not None:
            raise self.refusing
        (identifier,) = payload["identifiers"]
        number = str(self.tried)
        token = secrets.token_urlsafe(24)
        self._orders[number] = {
            "name": identifier["value"],
            "answer": f"{token}.{_thumbprint(jwk)}",
            "chain": None,
            "authorization": {
                "identifier": identifier,
                "status": "pending",
                "challenges": [
                    {"type": kind, "url": f"{self.base}/challenge/{number}/{kind}", "token": token, "status": "pending"}
                    for kind in ("http-01", "dns-01", "tls-alpn-01")
                ],
            },
        }
        return self._reply(201, self._shown(number), more={"Location": f"{self.base}/order/{number}"})

    def _shown(self, number: str) -> dict[str, Any]:
        order = self._orders[number]
        proof = order["authorization"]["status"]
        status = "valid" if order["chain"] else {"pending": "pending", "valid": "ready"}.get(proof, "invalid")
        found = {
            "status": status,
            "identifiers": [order["authorization"]["identifier"]],
            "authorizations": [f"{self.base}/authorization/{number}"],
            "finalize": f"{self.base}/finalize/{number}",
        }
        return {**found, "certificate": f"{self.base}/certificate/{number}"} if order["chain"] else found

    def _challenge(self, number: str, kind: str) -> bytes:
        order = self._orders[number]
        challenge = next(one for one in order["authorization"]["challenges"] if one["type"] == kind)
        challenge["status"] = "processing"
        task = asyncio.get_running_loop().create_task(self._validate(order, challenge))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self._reply(200, challenge, more={"Link": f'<{self.base}/authorization/{number}>;rel="up"'})

    async def _validate(self, order: dict[str, Any], challenge: dict[str, Any]) -> None:
        problem = None
        try:
            async with asyncio.timeout(10):
                await self._told_where.wait()
                if order["name"] in self.elsewhere:
                    problem = ("connection", f"{order['name']}: no route to host")
                elif challenge["type"] == "http-01":
                    problem = await self._look_by_http(order["name"], challenge["token"], order["answer"])
                else:
                    problem = await self._look_by_tls(order["name"], order["answer"])
        except (OSError, TimeoutError) as error:
            problem = ("connection", f"{order['name']}: {type(error).__name__}")
        challenge["status"] = order["authorization"]["status"] = "valid" if problem is None else "invalid"
        if problem is not None:
            challenge["error"] = {"type": PROBLEM + problem[0], "detail": problem[1], "status": 403}

    async def _look_by_http(self, name: str, token: str, answer: str) -> tuple[str, str] | None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._http_port)
        writer.write(
            f"GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
        )
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        if not head.startswith(b"HTTP/1.1 200 ") or body.decode().strip() != answer:
            return "unauthorized", f"wrong answer from {name}: {head.splitlines()[0].decode()}"
        return None

    async def _look_by_tls(self, name: str, answer: str) -> tuple[str, str] | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        _, writer = await asyncio.open_connection("127.0.0.1", self._tls_port, ssl=context, server_hostname=name)
        shown = writer.get_extra_info("ssl_object")
        protocol, der = shown.selected_alpn_protocol(), shown.getpeercert(True)
        writer.transport.abort()
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if protocol != "acme-tls/1" or names.get_values_for_type(x509.DNSName) != [name]:
            return "unauthorized", f"{name} shows the certificate of {certificate.subject.rfc4514_string()}"
        proof = certificate.extensions.get_extension_for_oid(ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
        right = b"\x04\x20" + hashlib.sha256(answer.encode()).digest()
        if not proof.critical or proof.value.value != right:  # type: ignore[attr-defined]
            return "unauthorized", "another key authorization"
        return None

    def _finalize(self, number: str, payload: Any) -> bytes:
        order = self._orders[number]
        if order["authorization"]["status"] != "valid":
            raise Refusal(403, "orderNotReady", "prove the name first")
        request = x509.load_der_x509_csr(_unbase64(payload["csr"]))
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if not request.is_signature_valid or names.get_values_for_type(x509.DNSName) != [order["name"]]:
            raise Refusal(400, "badCSR", "not what was ordered")
        now = datetime.now(UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._ca.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(seconds=self.lifetime_s))
            .add_extension(names, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        order["chain"] = leaf.public_bytes(serialization.Encoding.PEM).decode() + self.root
        self.issued.append(order["name"])
        return self._reply(200, self._shown(number))

    def _made_ca(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME sink")])
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _thumbprint(jwk: dict[str, str]) -> str:
    """RFC 7638."""
    canonical = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    return _base64(hashlib.sha256(canonical.encode()).digest())


def _number(text: str) -> int:
    return int.from_bytes(_unbase64(text), "big")
