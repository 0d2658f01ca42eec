"""What a start prints: where everything is, and under --dev a line to paste."""

from __future__ import annotations

from sendkit_server.app import App
from sendkit_server.config import Address


def banner(app: App) -> str:
    """A few lines for the terminal."""
    lines = ["", "Sendkit server is ready.", ""]
    for label, addresses in (
        ("HTTP API", [f"http://{address}" for address in app.bound.http_bind]),
        ("HTTPS API", [f"https://{address}" for address in app.bound.https_bind]),
        ("SMTP, STARTTLS", app.bound.smtp_bind),
        ("SMTP, TLS", app.bound.smtps_bind),
        ("SMTP, no TLS, everything captured", app.bound.dev_smtp_bind),
        ("Bounces and complaints", app.bound.inbound_bind),
        ("Certificate challenges", app.bound.acme_http_bind),
    ):
        if addresses:
            lines.append(f"  {label + ':':<36}{', '.join(str(address) for address in addresses)}")
    if app.setup_url is not None:
        lines += [
            "",
            "Nobody can sign in yet. Make the first account within 24 hours (works once; a restart prints a new link):",
        ]
        lines += ["", f"  {app.setup_url}"]
        lines += [""] if app.dev else []
    if app.dev and app.dev_secret is not None:
        lines += _development(app, app.dev_secret)
    return "\n".join([*lines, ""])


def _development(app: App, secret: str) -> list[str]:
    base = _base(app)
    ca = app.data_dir.absolute() / "tls" / "ca.pem"
    lines = [
        f"  {'Inbox page:':<36}{base}/ui/inbox",
        f"  {'Test key (nothing leaves with it):':<36}{secret}",
        "",
        "Send a mail, then look at the inbox page:",
        "",
        f"  curl {base}/emails -H 'Authorization: Bearer {secret}' -H 'Content-Type: application/json' \\",
        """    -d '{"from":"Acme <hello@example.com>","to":"you@example.com","subject":"Hello","""
        """"html":"<h1>It works</h1>","text":"It works"}'""",
        "",
    ]
    if app.bound.smtp_bind or app.bound.smtps_bind:
        lines += [
            "For verified TLS to the SMTP ports trust the local CA (user sendkit, password = the key):",
            "",
            f"  export NODE_EXTRA_CA_CERTS={ca}",
            f"  export SSL_CERT_FILE={ca}",
        ]
    return lines


def _base(app: App) -> str:
    addresses: list[Address] = app.bound.http_bind
    return f"http://{addresses[0]}" if addresses else app.public_url
