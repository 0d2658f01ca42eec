"""The development inbox: captured mails as a list, and each with its HTML, text, headers, attachments and source.

A mail's HTML is a stranger's: it is shown in a frame without scripts, without our origin and without the network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import cast
from urllib.parse import quote

import msgspec

from sendkit_server.dashboard.pages import Page, Templates, redirect
from sendkit_server.dashboard.visit import Visit
from sendkit_server.manage import inbox
from sendkit_server.manage.audit import Actor
from sendkit_server.model.address import Mailbox
from sendkit_server.model.instant import api_time
from sendkit_server.store.queries.emails import Email
from sendkit_server.store.store import Store

MAX_LISTED = 200
MAIL_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'self'"
)
FILE_POLICY = "sandbox; default-src 'none'"

_parser = BytesParser(policy=policy.default)
_mailbox: msgspec.json.Decoder[Mailbox] = msgspec.json.Decoder(Mailbox)
_CID = re.compile(r"cid:([^\s\"'<>)]+)", re.IGNORECASE)


class Guest(msgspec.Struct, frozen=True):
    """Who looks, at which team's inbox. token: for the form.  is_ours: whether the form that came is one of ours."""

    team_id: int
    actor: Actor
    token: str
    may_change: bool
    is_ours: bool


class InboxPages:
    """The pages under `/ui/inbox`."""

    def __init__(self, store: Store, templates: Templates) -> None:
        self._store = store
        self._templates = templates

    async def page(self, visit: Visit, guest: Guest, parts: Sequence[str]) -> Page | None:
        """The page for the rest of the path; None when there is none."""
        team_id = guest.team_id
        if visit.method == "POST":
            if list(parts) != ["clear"]:
                return None
            if not (guest.is_ours and guest.may_change):
                return self._templates.page(
                    "problem.html",
                    403,
                    title="Not from here",
                    text="This form was sent by another site, or you may only look.",
                )
            await inbox.clear_inbox(self._store, team_id, guest.actor)
            return redirect("/ui/inbox")
        if not parts:
            return await self._list(visit, guest)
        found = await inbox.read_inbox(self._store, team_id, parts[0])
        if found is None:
            return self._templates.page(
                "problem.html", 404, title="No such mail", text="It was cleared from the inbox, or never captured."
            )
        return self._mail_page(found[0], found[1], parts[1:])

    async def _list(self, visit: Visit, guest: Guest) -> Page:
        mails = await inbox.list_inbox(self._store, guest.team_id, MAX_LISTED)
        shown = [_summary(mail) for mail in mails]
        return self._templates.page(
            "inbox.html",
            mails=shown,
            most=MAX_LISTED,
            token=guest.token,
            may_clear=guest.may_change and bool(shown),
            who=visit.visitor,
        )

    def _mail_page(self, mail: Email, raw: bytes, rest: Sequence[str]) -> Page | None:
        match list(rest):
            case []:
                return self._show(mail, raw)
            case ["html"]:
                return _html(mail.message.id, raw)
            case ["source"]:
                return Page(200, raw, "text/plain; charset=utf-8", FILE_POLICY)
            case ["parts", number] if number.isdigit() and len(number) < 6:
                return _part(raw, int(number))
            case ["cid", content_id]:
                return _inline(raw, content_id)
            case _:
                return None

    def _show(self, mail: Email, raw: bytes) -> Page:
        parsed = _parser.parsebytes(raw)
        html, text = _body(parsed, "html"), _body(parsed, "plain")
        return self._templates.page(
            "mail.html",
            mail=_summary(mail),
            headers=[(name, str(value)) for name, value in parsed.items()],
            has_html=html is not None,
            text=text,
            attachments=_attachments(parsed),
        )


def _summary(mail: Email) -> dict[str, object]:
    row = mail.message
    return {
        "id": row.id,
        "from": _mailbox.decode(row.from_mailbox).display(),
        "to": ", ".join(f"{recipient.local}@{recipient.site}" for recipient in mail.recipients),
        "subject": row.subject or "(no subject)",
        "door": row.door,
        "at": api_time(row.created_at),
    }


def _body(parsed: EmailMessage, kind: str) -> str | None:
    part = parsed.get_body((kind,))
    if part is None:
        return None
    try:
        return str(part.get_content())
    except (LookupError, KeyError, UnicodeError):
        # A charset that Python does not know.
        return cast(bytes, part.get_payload(decode=True) or b"").decode("utf-8", "replace")


def _attachments(parsed: EmailMessage) -> list[dict[str, object]]:
    return [
        {
            "number": number,
            "name": part.get_filename() or f"part {number}",
            "kind": part.get_content_type(),
            "size": len(cast(bytes, part.get_payload(decode=True) or b"")),
        }
        for number, part in enumerate(parsed.walk())
        if not part.is_multipart() and (part.get_filename() or part.get_content_disposition() == "attachment")
    ]


def _html(message_id: str, raw: bytes) -> Page | None:
    html = _body(_parser.parsebytes(raw), "html")
    if html is None:
        return None
    shown = _CID.sub(lambda found: f"/ui/inbox/{message_id}/cid/{quote(found[1], safe='')}", html)
    return Page(200, shown.encode("utf-8", "replace"), policy=MAIL_POLICY)


def _part(raw: bytes, number: int) -> Page | None:
    for index, part in enumerate(_parser.parsebytes(raw).walk()):
        if index == number and not part.is_multipart():
            return _file(part)
    return None


def _inline(raw: bytes, content_id: str) -> Page | None:
    for part in _parser.parsebytes(raw).walk():
        if str(part.get("Content-ID", "")).strip().strip("<>") == content_id and part.get_content_maintype() == "image":
            body = cast(bytes, part.get_payload(decode=True) or b"")
            return Page(200, body, part.get_content_type(), FILE_POLICY)
    return None


def _file(part: EmailMessage) -> Page:
    """A download, whatever it is: a stranger's HTML or SVG must not be opened as a page of ours."""
    body = cast(bytes, part.get_payload(decode=True) or b"")
    name = quote(part.get_filename() or "attachment", safe="")
    disposition = f"attachment; filename*=UTF-8''{name}".encode()
    return Page(200, body, "application/octet-stream", FILE_POLICY, headers=((b"content-disposition", disposition),))
