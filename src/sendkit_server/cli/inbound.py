"""`sendkit inbound`: a mail that came back, on standard input, as mail servers hand it to a program.

The exit status tells the mail server what to do, by the words of sysexits.h that Postfix, Exim and procmail know: 0 it is
done with, 75 try again later, 65 it is nobody's and never will be.
"""

from __future__ import annotations

import os
import sys
from base64 import b64encode

import click

from sendkit_server.cli.actions import ActionFailed, act
from sendkit_server.config import ConfigError, load
from sendkit_server.wire.dsn import addresses_in
from sendkit_server.wire.parts import parts_of
from sendkit_server.wire.report_mail import MAX_MAIL_BYTES

EX_DATAERR = 65
EX_TEMPFAIL = 75
_RECIPIENT_FIELDS = frozenset({"delivered-to", "x-original-to", "x-envelope-to", "to"})


@click.command()
@click.option("--to", multiple=True, help="The return path it came to; otherwise its header tells.")
def inbound(to: tuple[str, ...]) -> None:
    """Read a bounce, complaint or receiver's report from standard input, for a mail server's pipe."""
    # What a bounce says stands in front of the mail that it returns, which may be large; one byte more shows that a
    # receiver's report is too large.
    raw = sys.stdin.buffer.read(MAX_MAIL_BYTES + 1)
    # The rest is read all the same: the mail server would take a broken pipe for a failure.
    while sys.stdin.buffer.read(MAX_MAIL_BYTES):
        pass
    arguments = {
        "locals": [address.rpartition("@")[0] for address in to or _named(raw)],
        "raw": b64encode(raw).decode(),
    }
    try:
        result = act(load(os.environ), "inbound.take", arguments)
    except (ActionFailed, ConfigError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EX_TEMPFAIL)
    click.echo(result["result"], err=True)
    sys.exit(EX_DATAERR if result["result"] == "forged" else 0 if result["final"] else EX_TEMPFAIL)


def _named(raw: bytes) -> tuple[str, ...]:
    fields = parts_of(raw)[0].fields
    return tuple(address for name, value in fields if name in _RECIPIENT_FIELDS for address in addresses_in(value))
