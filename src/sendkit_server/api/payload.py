"""From a request's body to a Submission: JSON or form data, types checked and named, nothing else decided.

Unknown members are ignored; null and [] count as absent; a member of the contract that this version cannot obey is
refused by name.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec
from python_multipart import exceptions as form_errors
from python_multipart import parse_form

from sendkit_server.model.address import AddressError, parse_mailbox
from sendkit_server.model.instant import Instant, from_text
from sendkit_server.model.mail import ApiKey, Attachment, Submission, Tag
from sendkit_server.model.refusal import Refusal, Refused, invalid, not_built_yet, required, too_long, wrong_type

MAX_FORM_PARTS = 1_000
MAX_EMAIL_CHARACTERS = 255
NOT_BUILT = (
    "scheduled_at", "template", "variables", "auto_text", "track_opens", "track_clicks", "unsubscribe",
)  # fmt: skip
NOT_BUILT_HEADERS = (b"x-batch-validation",)
_STRINGS = "a string or an array of strings"
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")
_FIELD_NAME = re.compile(r"([^\[\]]+)(?:\[([^\[\]]*)\])?")

UNSUPPORTED_TYPE = Refusal(
    "validation_error",
    "The content type must be application/json, multipart/form-data or application/x-www-form-urlencoded.",
    415,
)
Members = dict[str, Any]


def submission(key: ApiKey, headers: Mapping[bytes, bytes], body: bytes) -> Submission:
    """The call's submission. Refused: wrong content type, malformed, wrong types, members that are not built yet."""
    for header in NOT_BUILT_HEADERS:
        if header in headers:
            raise Refused(not_built_yet(header.decode()))
    found = from_members(key, members(headers, body))
    once = headers.get(b"idempotency-key")
    return found if once is None else msgspec.structs.replace(found, idempotency_key=once.decode("latin-1").strip())


def members(headers: Mapping[bytes, bytes], body: bytes) -> Members:
    """The body as an object's members, whatever its content type."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise Refused(Refusal("validation_error", "Compressed request bodies are not supported.", 415))
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    # A missing type is tried as JSON: curl and old clients leave it out.
    if kind in (b"", b"application/json") or kind.endswith(b"+json"):
        return json_members(body)
    # `curl -d '{…}'` without a header calls its JSON a form; no form begins with a brace.
    if kind == b"application/x-www-form-urlencoded" and body.lstrip().startswith(b"{"):
        return json_members(body)
    if kind in (b"multipart/form-data", b"application/x-www-form-urlencoded"):
        return form_members(headers, body)
    raise Refused(UNSUPPORTED_TYPE)


def json_members(body: bytes) -> Members:
    """A JSON object; an empty body counts as `{}`, a repeated name's last value wins."""
    if not body or body.isspace():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refused(invalid(f"The request body is not valid JSON: {reason}")) from None
    if not isinstance(value, dict):
        raise Refused(invalid("The request body must be a JSON object."))
    return value


def from_members(key: ApiKey, given: Members) -> Submission:
    """A Submission from an object's members."""
    for name in NOT_BUILT:
        if name in given and not absent(given[name], empty_object=name == "template"):
            raise Refused(not_built_yet(name))
    return Submission(
        key=key,
        from_=string(given, "from"),
        to=strings(given, "to"),
        cc=strings(given, "cc"),
        bcc=strings(given, "bcc"),
        reply_to=strings(given, "reply_to"),
        subject=string(given, "subject"),
        html=string(given, "html"),
        text=string(given, "text"),
        headers=pairs(given, "headers"),
        attachments=_attachments(given),
        tags=_tags(given),
        metadata=pairs(given, "metadata"),
        check_only=boolean(given, "check_only") or False,
        priority=string(given, "priority"),
        expires_at=string(given, "expires_at"),
        require_tls=boolean(given, "require_tls"),
        stream=string(given, "stream"),
    )


def absent(value: object, *, empty_object: bool = False) -> bool:
    """Whether a member counts as not given: null, [] and, where an object is asked for, {}."""
    return value is None or value == [] or (empty_object and value == {})


def string(given: Members, name: str) -> str | None:
    """A member that is text, if it is there. Refused."""
    value = given.get(name)
    if absent(value):
        return None
    if not isinstance(value, str):
        raise Refused(wrong_type(name, "a string"))
    return value


def boolean(given: Members, name: str) -> bool | None:
    """A member that is true or false, if it is there. Refused."""
    value = given.get(name)
    if absent(value):
        return None
    if not isinstance(value, bool):
        raise Refused(wrong_type(name, "true or false"))
    return value


def whole(given: Members, name: str) -> int | None:
    """A member that is a whole number, if it is there; form data and PHP send it as text. Refused."""
    value = given.get(name)
    if absent(value):
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value.strip()):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(wrong_type(name, "a whole number"))
    return value


def moment(given: Members, name: str) -> Instant | None:
    """A member that is a time, if it is there: ISO 8601 or `YYYY-MM-DD HH:MM:SS`, UTC without a zone. Refused."""
    text = string(given, name)
    if text is None:
        return None
    try:
        return from_text(text.strip())
    except ValueError:
        raise Refused(
            invalid(f"The {name} field must be a time such as 2026-12-01T09:00:00Z (UTC without a zone).", name)
        ) from None


def address(field: str, value: object) -> str:
    """The address that a member holds: exactly one, without a name. Refused."""
    if value is None or value == "":
        raise Refused(required(field))
    if not isinstance(value, str):
        raise Refused(wrong_type(field, "a string"))
    if len(value) > MAX_EMAIL_CHARACTERS:
        raise Refused(too_long(field, MAX_EMAIL_CHARACTERS))
    try:
        return parse_mailbox(value).address
    except AddressError:
        raise Refused(invalid(f"The {field} field must be a valid email address.", field)) from None


def strings(given: Members, name: str) -> tuple[str, ...]:
    """A member that is a list of texts, or one text. Refused."""
    value = given.get(name)
    if absent(value) or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, dict) and all(key.isdigit() for key in value):
        # PHP encodes a filtered list as an object with its old indexes.
        value = list(value.values())
    if not isinstance(value, list):
        raise Refused(wrong_type(name, _STRINGS))
    for index, item in enumerate(value):
        if not isinstance(item, str):
            refused = wrong_type(name, _STRINGS)
            raise Refused(msgspec.structs.replace(refused, field=f"{name}[{index}]"))
    return tuple(value)


def pairs(given: Members, name: str) -> tuple[tuple[str, str], ...]:
    """A member that is an object of strings; empty when it is not there. Refused."""
    value = given.get(name)
    if absent(value):
        return ()
    if not isinstance(value, dict):
        raise Refused(wrong_type(name, "an object of strings"))
    for key, item in value.items():
        if not isinstance(item, str):
            refused = wrong_type(name, "an object of strings")
            raise Refused(msgspec.structs.replace(refused, field=f"{name}[{key[:100]}]"))
    return tuple(value.items())


def _tags(given: Members) -> tuple[Tag, ...]:
    value = given.get("tags")
    if absent(value):
        return ()
    if not isinstance(value, list):
        raise Refused(wrong_type("tags", "an array of objects with name and value"))
    found = []
    for index, item in enumerate(value):
        field = f"tags[{index}]"
        if isinstance(item, str):
            found.append(Tag(item))
        elif isinstance(item, dict):
            name = item.get("name")
            if name is None:
                raise Refused(required(f"{field}.name"))
            tag_value = item.get("value")
            for part, text in (("name", name), ("value", tag_value)):
                if text is not None and not isinstance(text, str):
                    raise Refused(wrong_type(f"{field}.{part}", "a string"))
            found.append(Tag(name, tag_value or ""))
        else:
            raise Refused(wrong_type(field, "an object with name and value"))
    return tuple(found)


def _attachments(given: Members) -> tuple[Attachment, ...]:
    value = given.get("attachments")
    if absent(value):
        return ()
    if not isinstance(value, list):
        raise Refused(wrong_type("attachments", "an array of objects"))
    return tuple(
        item if isinstance(item, Attachment) else _attachment(f"attachments[{index}]", item)
        for index, item in enumerate(value)
    )


def _attachment(field: str, item: object) -> Attachment:
    if not isinstance(item, dict):
        raise Refused(wrong_type(field, "an object"))
    if not absent(item.get("path")):
        raise Refused(not_built_yet(f"{field}.path"))
    texts: dict[str, str | None] = {}
    for name in ("filename", "content", "content_type", "contentType", "content_id"):
        text = item.get(name)
        if text is not None and not isinstance(text, str):
            raise Refused(wrong_type(f"{field}.{name}", "a string"))
        texts[name] = text
    if texts["content"] is None:
        raise Refused(required(f"{field}.content"))
    filename = texts["filename"] or "attachment"
    return Attachment(
        filename=filename,
        content_type=texts["content_type"] or texts["contentType"] or guessed_type(filename),
        content=_decoded(field, filename, texts["content"]),
        content_id=texts["content_id"] or None,
    )


def guessed_type(filename: str) -> str:
    """The media type that a file name's ending tells."""
    return mimetypes.guess_type(filename, strict=False)[0] or "application/octet-stream"


def _decoded(field: str, filename: str, text: str) -> bytes:
    try:
        return base64.b64decode(_WHITE_SPACE.sub("", text), validate=True)
    except (binascii.Error, ValueError):
        shown = "".join(character for character in filename if character.isprintable())[:80]
        raise Refused(
            invalid(f"The {field}.content field must be valid base64 (attachment '{shown}').", f"{field}.content")
        ) from None


# -- form data -----------------------------------------------------------------------------------------------------


class _Field(Protocol):
    field_name: bytes | None
    value: bytes | None


class _File(Protocol):
    field_name: bytes | None
    file_name: bytes | None
    content_type: str | None

    @property
    def file_object(self) -> BytesIO: ...


def form_members(headers: Mapping[bytes, bytes], body: bytes) -> Members:
    """Form data as the members that the same call has in JSON.

    A repeated field or `name[]` is a list, `headers[X]`, `metadata[k]` and `tags[name]` are objects, uploaded files are
    attachments, and one field `payload` may hold the whole JSON.
    """
    fields, files = _parsed_form(headers, body)
    values: dict[str, list[str]] = {}
    objects: dict[str, dict[str, str]] = {}
    for name, text in fields:
        matched = _FIELD_NAME.fullmatch(name)
        if matched is None:
            continue
        base, inner = matched[1], matched[2]
        if inner:
            objects.setdefault(base, {})[inner] = text
        else:
            values.setdefault(base, []).append(text)
    if "payload" in values:
        found = json_members(values["payload"][-1].encode("utf-8", "surrogatepass"))
    else:
        found = {name: _form_value(name, texts) for name, texts in values.items()}
        for name, pairs in objects.items():
            found[name] = [{"name": k, "value": v} for k, v in pairs.items()] if name == "tags" else pairs
    if files:
        existing = found.get("attachments")
        found["attachments"] = [*(existing if isinstance(existing, list) else []), *files]
    return found


def _form_value(name: str, texts: list[str]) -> object:
    if name in ("check_only", "require_tls") and len(texts) == 1:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": None}.get(
            texts[0], texts[0]
        )
    return texts[0] if len(texts) == 1 else texts


def _parsed_form(headers: Mapping[bytes, bytes], body: bytes) -> tuple[list[tuple[str, str]], list[Attachment]]:
    content_type = headers.get(b"content-type", b"")
    if content_type.strip().lower().startswith(b"multipart/"):
        return _multipart(content_type, body)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_PARTS)
    except ValueError:
        raise Refused(
            invalid(f"The form is not valid, percent-encoded UTF-8 with at most {MAX_FORM_PARTS} fields.")
        ) from None
    return pairs, []


def _multipart(content_type: bytes, body: bytes) -> tuple[list[tuple[str, str]], list[Attachment]]:
    fields: list[tuple[str, str]] = []
    files: list[Attachment] = []

    def count() -> None:
        if len(fields) + len(files) >= MAX_FORM_PARTS:
            raise Refused(invalid(f"The form must not have more than {MAX_FORM_PARTS} fields."))

    def on_field(field: _Field) -> None:
        count()
        fields.append((_text(field.field_name), _text(field.value)))

    def on_file(file: _File) -> None:
        count()
        file.file_object.seek(0)
        name = _text(file.file_name) or "attachment"
        kind = file.content_type or guessed_type(name)
        files.append(Attachment(name, kind, file.file_object.read()))

    form_headers = {"Content-Type": content_type, "Content-Length": str(len(body)).encode()}
    try:
        parse_form(form_headers, BytesIO(body), on_field, on_file)  # type: ignore[arg-type]  # the library's protocols are narrower than what it calls
    except (form_errors.FormParserError, ValueError) as error:
        raise Refused(invalid(f"The request body is not valid form data: {error}")) from None
    return fields, files


def _text(raw: bytes | None) -> str:
    try:
        return (raw or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(invalid("The form holds text that is not valid UTF-8.")) from None
