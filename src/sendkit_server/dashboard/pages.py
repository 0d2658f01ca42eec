"""A page as a value, and the templates it is made from. Everything a template shows is escaped."""

from __future__ import annotations

import mimetypes
from pathlib import Path

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from sendkit_server.manage.guesses import Wait

STRICT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'"
)


class Page(msgspec.Struct, frozen=True):
    """What is sent. policy: the Content-Security-Policy.  is_repeated: a refusal that was said before, not to be logged again."""

    status: int
    body: bytes
    content_type: str = "text/html; charset=utf-8"
    policy: str = STRICT_POLICY
    headers: tuple[tuple[bytes, bytes], ...] = ()
    is_repeated: bool = False


def redirect(to: str) -> Page:
    """See another page (303: with GET, whatever was asked here)."""
    return Page(303, b"", headers=((b"location", to.encode()),))


def with_headers(page: Page, *headers: tuple[bytes, bytes]) -> Page:
    """The page with further headers."""
    return msgspec.structs.replace(page, headers=(*page.headers, *headers))


def waiting(page: Page, wait: Wait) -> Page:
    """The page of somebody who has to wait."""
    page = with_headers(page, (b"retry-after", str(wait.seconds).encode()))
    return msgspec.structs.replace(page, is_repeated=not wait.is_new)


class Templates:
    """The templates and static files of this folder."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("sendkit_server.dashboard"), autoescape=True, undefined=StrictUndefined
        )
        self._static = {path.name: path for path in (Path(__file__).parent / "static").iterdir()}

    def page(self, template: str, status: int = 200, /, **values: object) -> Page:
        """A page from a template."""
        return Page(status, self._environment.get_template(template).render(values).encode())

    def static(self, name: str) -> Page | None:
        """A static file by its name alone."""
        path = self._static.get(name)
        if path is None:
            return None
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Page(200, path.read_bytes(), f"{kind}; charset=utf-8")
