"""Passwords of people: Argon2id (RFC 9106), kept as PHC strings.

Deriving takes 19 MiB and some 40 ms on purpose, so it runs in threads of its own, two at a time: a crowd at the sign-in page
waits for each other and not the mail for them.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from sendkit_server.manage.keys import ManageError

MEMORY_KIB = 19_456
ITERATIONS = 2
LANES = 1
LENGTH_BYTES = 32
SALT_BYTES = 16
THREADS = 2
MIN_CHARACTERS = 12
MAX_CHARACTERS = 1_000

# Of no password: what is given for an account that does not exist is compared with it, in the same time.
_NOBODY = (
    f"$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p={LANES}$c2VuZGtpdC1zZXJ2ZXItMQ$"
    "p6JJAzP+eIEb1O2mFcW6KhqLdu5RH4IMVIZqiktjLhY"
)


class Passwords:
    """Derives and compares."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "passwords")

    async def derived(self, password: str) -> str:
        """The PHC string of a new password. ManageError: it is too short or too long."""
        if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
            raise ManageError(f"A password needs {MIN_CHARACTERS} to {MAX_CHARACTERS} characters.", "password")
        return await asyncio.get_running_loop().run_in_executor(self._threads, _derive, _prepared(password))

    async def fits(self, password: str, phc: str | None) -> bool:
        """Whether it is the password of a PHC string. None: of an account that does not exist; it takes as long."""
        given = _prepared(password[:MAX_CHARACTERS])
        is_right = await asyncio.get_running_loop().run_in_executor(self._threads, _fits, given, phc or _NOBODY)
        return is_right and phc is not None

    def close(self) -> None:
        """Waits for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _prepared(password: str) -> bytes:
    # RFC 8265 4.2: the same letters are the same password, however a keyboard composes them.
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _derive(password: bytes) -> str:
    salt = os.urandom(SALT_BYTES)
    kdf = Argon2id(salt=salt, length=LENGTH_BYTES, iterations=ITERATIONS, lanes=LANES, memory_cost=MEMORY_KIB)
    return kdf.derive_phc_encoded(password)


def _fits(password: bytes, phc: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password, phc)
    except InvalidKey:
        return False
    return True
