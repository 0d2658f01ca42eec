"""What a domain's owner may set: TLS, tracking, the host of tracking links, the label of the return path."""

from __future__ import annotations

import re

import msgspec

from sendkit_server.manage.keys import ManageError
from sendkit_server.model.address import AddressError, ascii_domain

TLS_POLICIES = ("opportunistic", "enforced")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


class DomainWish(msgspec.Struct, frozen=True):
    """None leaves a thing as it is.

    tls: of TLS_POLICIES.  return_path: the label below the domain that bounces come to.  tracking: the label, or the whole
    name, of the host of tracking links; "": the public URL's.
    """

    tls: str | None = None
    open_tracking: bool | None = None
    click_tracking: bool | None = None
    return_path: str | None = None
    tracking: str | None = None

    def columns(self, domain: str, return_path: str, tracking_host: str | None) -> dict[str, object]:
        """The columns to write for a domain that has these now. ManageError: what is wished for cannot be."""
        found: dict[str, object] = {
            name: value
            for name, value in (("open_tracking", self.open_tracking), ("click_tracking", self.click_tracking))
            if value is not None
        }
        if self.tls is not None:
            if self.tls not in TLS_POLICIES:
                raise ManageError(f"The tls field must be one of {', '.join(TLS_POLICIES)}.", "tls")
            found["tls"] = self.tls
        if self.return_path is not None:
            return_path = found["return_path"] = _label(self.return_path)
        if self.tracking is not None:
            tracking_host = found["tracking_host"] = _host(self.tracking, domain)
        if tracking_host == f"{return_path}.{domain}":
            raise ManageError(
                f"{tracking_host} cannot be both the return path and the host of tracking links: beside a CNAME no other"
                " record may stand.",
                "tracking_subdomain" if self.tracking is not None else "custom_return_path",
            )
        return found


def _label(text: str) -> str:
    label = text.strip().lower()
    if _LABEL.fullmatch(label) is None:
        raise ManageError(
            "The custom return path field must be one label, such as send or bounces: letters, digits and hyphens, at most 63.",
            "custom_return_path",
        )
    return label


def _host(text: str, domain: str) -> str | None:
    name = text.strip().rstrip(".")
    if not name:
        return None
    try:
        return ascii_domain(name if name.lower().endswith("." + domain) else f"{name}.{domain}")
    except AddressError:
        raise ManageError(
            f"The tracking subdomain field must be a name below {domain}, such as links.", "tracking_subdomain"
        ) from None


NO_WISH = DomainWish()
