"""Debian's Postfix as the sender's own mail server: takes everything at port 25 of an address, logs in at a relay host
and sends it there."""

from __future__ import annotations

import json
import re
import smtplib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from databases.children import not_installed
from instance import MX_PORT, Instance

RUN_S = 20.0
SOON = "1s"
_POSTQUEUE, _POSTSUPER = "/usr/sbin/postqueue", "/usr/sbin/postsuper"
_REMOVED = re.compile(r"/qmgr\[\d+\]: \w+: removed$", re.MULTILINE)

_MAIN_CF = """\
myhostname = relay.sender.test
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = none
# As for clients of other machines: nothing is added to what they leave out, such as a Message-ID.
local_header_rewrite_clients =
relayhost = {host}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ {{ {host} = sendkit:{key} }} }}
smtp_sasl_security_options = noanonymous
smtp_tls_security_level = {tls}
smtp_tls_loglevel = 1
smtp_tls_CAfile = {ca_file}
queue_run_delay = {again}
minimal_backoff_time = {again}
maximal_backoff_time = {again}
"""


class Relay(Instance):
    """A running instance. host: where all goes, such as [127.0.0.1]:2587.  key: its password there.  ca_file: of an authority
    that must have signed the relay host's certificate; None: no TLS.  again: how long what did not go waits."""

    def __init__(self, address: str, host: str, key: str, *, ca_file: Path | None = None, again: str = SOON) -> None:
        super().__init__(address)
        self.taken: list[bytes] = []
        if not list(Path("/usr/lib").glob("*/sasl2/libplain.so")):
            not_installed("libsasl2-modules, by which Postfix logs in,")
        tls = {"tls": "none" if ca_file is None else "secure", "ca_file": ca_file or ""}
        main = _MAIN_CF.format(host=host, key=key, again=again, **tls)
        try:
            self._start(main, f"{address}:{MX_PORT} inet n - n - - smtpd\n", [MX_PORT])
        except BaseException:
            self.close()
            raise

    def take(self, raw: bytes, recipients: Sequence[str], return_path: str = "app@sender.test") -> None:
        """Gives it a mail, as an application would."""
        with smtplib.SMTP(self.address, MX_PORT, timeout=RUN_S) as client:
            assert client.sendmail(return_path, recipients, raw) == {}
        self.taken.append(raw)

    @property
    def is_done(self) -> bool:
        """Whether all that it took has left the queue. By the log: `postqueue` overlooks what is just moved to another part."""
        return len(_REMOVED.findall(self.log)) == len(self.taken)

    def queue(self) -> list[dict[str, Any]]:
        """What is in its queue, whatever for."""
        return [json.loads(line) for line in self._run(_POSTQUEUE, "-j").splitlines()]

    def flush(self) -> None:
        """All is tried now, also at a host that was just found wanting."""
        self._run(_POSTQUEUE, "-f")

    def requeue(self) -> None:
        """What an operator does after a change of the configuration: all comes in anew, under other queue ids."""
        self._run(_POSTSUPER, "-r", "ALL")

    def _run(self, program: str, *arguments: str) -> str:
        command = [program, "-c", self._etc, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=True).stdout
