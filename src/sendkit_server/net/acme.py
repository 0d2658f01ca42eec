"""A certificate authority that speaks ACME (RFC 8555), as orders need it: account, order, answers, certificate.

The protocol is the `acme` library's. It blocks, so each of its calls runs in one thread of our own, and whatever has
to be waited for is waited for here, where it can be cancelled: a server that ends does not wait for an authority.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC
from requests.adapters import HTTPAdapter

from sendkit_server.model.certificate import TLS_ALPN_01, Account, Binding, Challenge
from sendkit_server.net.https import USER_AGENT
from sendkit_server.net.tls_client import TlsClient

REQUEST_S = 30.0
ORDER_S = 120.0  # from the answers to the certificate
POLL_S = 0.3
LONGEST_POLL_S = 5.0
NONCE_TRIES = 5
MOST_CHARACTERS = 500  # of what an authority says
LONGEST_WAIT_S = 7 * 86_400.0  # whatever an authority says
CHALLENGE_DAYS = 7
ACME_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # id-pe-acmeIdentifier, RFC 8737 6.1
# Errors that are not about the name: another name would get them too.
GENERAL_CODES = frozenset(
    {
        "accountDoesNotExist",
        "badNonce",
        "externalAccountRequired",
        "invalidContact",
        "serverInternal",
        "unsupportedContact",
        "userActionRequired",
    }
)

T = TypeVar("T")


@challenges.ChallengeResponse.register
class TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    """What is sent when the authority may look; the library knows challenges by HTTP and DNS only."""

    typ = TLS_ALPN_01


@challenges.Challenge.register
class TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """A challenge by TLS (RFC 8737)."""

    typ = TLS_ALPN_01
    response_cls = TlsAlpn01Response

    def validation(self, account_key: JWK, **_: Any) -> bytes:
        """The digest that stands in the certificate."""
        return hashlib.sha256(self.key_authorization(account_key).encode()).digest()


class AcmeTrouble(Exception):
    """There is no certificate; the text says why, in the authority's words where it has said something.

    code: the authority's, such as `rateLimited`; empty when it has not answered.  retry_after_s: how long it wants to be
    left alone; 0 when it did not say.  is_general: whether it would be the same for another name.
    """

    def __init__(self, text: str, code: str = "", retry_after_s: float = 0.0, *, is_general: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.retry_after_s = retry_after_s
        self.is_general = is_general or code in GENERAL_CODES


def new_key() -> str:
    """A private key, ECDSA on P-256, in PEM."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def challenge_certificate(challenge: Challenge) -> bytes:
    """The key and the self-signed certificate that answer a tls-alpn-01 challenge (RFC 8737 3), in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    digest = hashlib.sha256(challenge.answer.encode()).digest()
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CHALLENGE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(challenge.name)]), critical=False)
        # An OCTET STRING of 32 bytes.
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem + certificate.public_bytes(serialization.Encoding.PEM)


class Authority:
    """One ACME directory. ca_file: further roots beside the system's, PEM."""

    def __init__(self, directory_url: str, ca_file: Path | None) -> None:
        self._url = directory_url
        self._ca_file = ca_file
        self._threads = ThreadPoolExecutor(1, "acme")

    def close(self) -> None:
        """Waits for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def registered(self, account: Account, binding: Binding | None = None) -> Account:
        """The account with its URI, made at the authority if its key is new there, and bound as told. AcmeTrouble."""
        return await self._call(self._register, account, binding)

    async def order(self, account: Account, name: str, key: str, kind: str) -> Order:
        """Asks for a certificate for a DNS name. key: the certificate's, PEM.  kind: of the challenge. AcmeTrouble."""
        return await self._call(self._order, account, name, key, kind)

    def _register(self, account: Account, binding: Binding | None) -> Account:
        talk = _Talk(self._url, self._ca_file, account)
        if binding is None and talk.client.external_account_required():
            raise AcmeTrouble(
                "the authority wants accounts that were made on its pages first (external account binding): set "
                "SENDKIT_ACME_EAB_KID and SENDKIT_ACME_EAB_HMAC_KEY to what they show",
                "externalAccountRequired",
            )
        wanted = messages.NewRegistration.from_data(
            email=account.email,
            terms_of_service_agreed=True,
            external_account_binding=None if binding is None else talk.bound(binding),
        )
        try:
            uri = talk.client.new_account(wanted).uri
        except errors.ConflictError as known:
            uri = known.location
        return msgspec.structs.replace(account, uri=uri, kid=binding.kid if binding else "")

    def _order(self, account: Account, name: str, key: str, kind: str) -> Order:
        talk = _Talk(self._url, self._ca_file, account)
        private = serialization.load_pem_private_key(key.encode(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(private, hashes.SHA256())
        )
        placed = talk.client.new_order(request.public_bytes(serialization.Encoding.PEM))
        return Order(self._call, talk, placed, name, kind)

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs it in the thread; whatever goes wrong there is AcmeTrouble."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _told, function, *arguments)


class Order:
    """One certificate on its way: `challenges` are to be answered, then `certificate` fetches it."""

    def __init__(
        self,
        call: Callable[..., Any],
        talk: _Talk,
        placed: messages.OrderResource,
        name: str,
        kind: str,
    ) -> None:
        self._call = call
        self._talk = talk
        self._placed = placed
        self._open: list[messages.ChallengeBody] = []
        self.challenges: list[Challenge] = []
        for authorization in placed.authorizations:
            if authorization.body.status == messages.STATUS_VALID:
                continue  # proved not long ago
            body = _offered(authorization, kind, name)
            self._open.append(body)
            answer = body.chall.key_authorization(talk.key)
            self.challenges.append(Challenge(kind, name, body.chall.encode("token"), answer))

    async def certificate(self) -> str:
        """The chain in PEM, once the authority has seen the answers. AcmeTrouble."""
        try:
            async with asyncio.timeout(ORDER_S):
                for body in self._open:
                    await self._call(self._talk.client.answer_challenge, body, body.chall.response(self._talk.key))
                for authorization in self._placed.authorizations:
                    await self._proved(authorization)
                return await self._issued()
        except TimeoutError:
            raise AcmeTrouble(f"the authority did not come to a decision within {ORDER_S:g} s") from None

    async def _proved(self, authorization: messages.AuthorizationResource) -> None:
        wait_s = POLL_S
        while True:
            found, _ = await self._call(self._talk.client.poll, authorization)
            if found.body.status == messages.STATUS_VALID:
                return
            if found.body.status != messages.STATUS_PENDING:
                raise _refused(found)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, LONGEST_POLL_S)

    async def _issued(self) -> str:
        await self._call(self._talk.begin, self._placed)
        wait_s = POLL_S
        while True:
            chain: str | None = await self._call(self._talk.fetch, self._placed)
            if chain is not None:
                return chain
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, LONGEST_POLL_S)


class _Talk:
    """A conversation with the authority in the name of an account."""

    def __init__(self, directory_url: str, ca_file: Path | None, account: Account) -> None:
        private = serialization.load_pem_private_key(account.key.encode(), None)
        self.key = JWKEC(key=private)
        known = messages.RegistrationResource(body=messages.Registration(), uri=account.uri) if account.uri else None
        self._net = _Network(self.key, known, ca_file)
        directory = client.ClientV2.get_directory(directory_url, self._net)
        self.client = client.ClientV2(directory, self._net)

    def bound(self, binding: Binding) -> dict[str, Any]:
        """Our key, signed with the one that the authority's pages have shown (RFC 8555 7.3.4)."""
        found: dict[str, Any] = messages.ExternalAccountBinding.from_data(
            self.key.public_key(), binding.kid, binding.mac_key, self.client.directory
        )
        return found

    def begin(self, placed: messages.OrderResource) -> None:
        """Hands in the certificate's key."""
        try:
            self.client.begin_finalization(placed)
        except AcmeTrouble as trouble:
            if trouble.code != "orderNotReady":  # it will be, and fetch hands it in again
                raise

    def fetch(self, placed: messages.OrderResource) -> str | None:
        """The chain, or None while it is being made."""
        # The library's own way sleeps in between, and would hold the thread.
        order = messages.Order.from_json(self._read(placed.uri).json())
        if order.status == messages.STATUS_INVALID:
            raise _worded(order.error, None) if order.error else AcmeTrouble("the authority has given the order up")
        if order.status == messages.STATUS_READY:
            self.begin(placed)
        if order.status != messages.STATUS_VALID or order.certificate is None:
            return None
        return str(self._read(order.certificate).text)

    def _read(self, url: str) -> requests.Response:
        """POST-as-GET (RFC 8555 6.3)."""
        return self._net.post(url, None, new_nonce_url=self.client.directory["newNonce"])


class _Network(client.ClientNetwork):
    """The library's network, with our trust roots and no proxies of the environment."""

    def __init__(self, key: JWK, account: messages.RegistrationResource | None, ca_file: Path | None) -> None:
        super().__init__(key, account, ES256, user_agent=USER_AGENT, timeout=int(REQUEST_S))
        self.session.trust_env = False
        self.session.mount("https://", _Adapter(ca_file))
        self.session.hooks["response"].append(self._remember)
        self.last: requests.Response | None = None

    def _remember(self, response: requests.Response, *_: object, **__: object) -> None:
        self.last = response

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """As the library's, which tries a second nonce; RFC 8555 6.5 lets us try as often as it takes. AcmeTrouble."""
        for _ in range(NONCE_TRIES - 1):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise _worded(error, self.last) from error
        try:
            return super().post(*args, **kwargs)
        except messages.Error as error:
            raise _worded(error, self.last) from error


class _Adapter(HTTPAdapter):
    """Verified TLS with the trust roots that the rest of the program has, not those of the library."""

    def __init__(self, ca_file: Path | None) -> None:
        self._context = TlsClient(ca_file).verified
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """With our context."""
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context has the roots; the library's bundle is not added to them."""
        conn.cert_reqs = "CERT_REQUIRED"


def _told(function: Callable[..., T], *arguments: object) -> T:
    """Whatever goes wrong is AcmeTrouble."""
    try:
        return function(*arguments)
    except AcmeTrouble:
        raise
    except messages.Error as error:
        raise _worded(error, None) from error
    except OSError as error:  # whatever `requests` raises is one, too
        # What the connection failed of lies inside.
        cause = getattr(error.args[0] if error.args else None, "reason", None) or error
        raise AcmeTrouble(f"the authority cannot be reached: {_short(cause)}", is_general=True) from error
    except (errors.Error, JoseError, AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"the authority's answer is not one of ACME ({type(error).__name__}: {_short(error)})"
        raise AcmeTrouble(text, is_general=True) from error


def _offered(authorization: messages.AuthorizationResource, kind: str, name: str) -> messages.ChallengeBody:
    offered = {str(body.chall.to_partial_json().get("type")): body for body in authorization.body.challenges}
    if kind not in offered:
        raise AcmeTrouble(
            f"for {name} the authority offers {', '.join(sorted(offered)) or 'nothing'}, and not {kind}: set "
            "SENDKIT_ACME_CHALLENGE to what it offers"
        )
    return offered[kind]


def _refused(found: messages.AuthorizationResource) -> AcmeTrouble:
    for body in found.body.challenges:
        if body.error is not None:
            return _worded(body.error, None)
    return AcmeTrouble(f"the authority says that the proof is {found.body.status.name}")


def _worded(error: messages.Error, response: requests.Response | None) -> AcmeTrouble:
    """In the authority's words, those about single names behind. response: the answer that it came with."""
    parts = [error.detail or error.title or str(error.description or "no reason given")]
    parts += [str(part.detail) for part in error.subproblems or () if part.detail]
    code = error.code or ""
    text = f"{code or error.typ}: {'; '.join(parts)}"
    if response is None:
        return AcmeTrouble(_short(text), code)
    # Of a request it is our account that is not authorized; of a proof it would be the name.
    return AcmeTrouble(_short(text), code, _retry_after_s(response), is_general=code == "unauthorized")


def _retry_after_s(response: requests.Response) -> float:
    """Retry-After (RFC 9110 10.2.3): seconds or a date."""
    text = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), LONGEST_WAIT_S)


def _short(text: object) -> str:
    return " ".join(str(text).split())[:MOST_CHARACTERS]
