"""Debian's Postfix as an instance of a test process's own: the recipients' server, and a relay that asks for a login.
`relay.py` has it as the sender's.

It stands at a loopback address of its own, so that its ports are always the same:

- 25: takes mail for there.test and puts it into a Maildir; STARTTLS is offered. `gone@` is taken and bounced afterwards, to
  the return path's server at BOUNCES_PORT; `nobody@` does not exist.
- 587 and 465: as a relay; STARTTLS or TLS from the start, then AUTH as USER with PASSWORD. What it takes ends in the
  same Maildir.
"""

from __future__ import annotations

import base64
import email
import os
import pwd
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme
from databases.children import Home, not_installed, tail, wait_for

USER, PASSWORD = "relay user", "p@ss,wörd/:"
MX_PORT, BOUNCES_PORT = 25, 2525
START_S = 20.0
BIGGEST_BYTES = 40_000_000
_POSTFIX, _MASTER = "/usr/sbin/postfix", "/usr/lib/postfix/sbin/master"

_ANY_MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
maillog_file_prefixes = {home}
maillog_file = {home}/log
mydestination =
alias_maps =
local_recipient_maps =
# Of no meaning here: each service says where it listens. Addresses that no interface names are refused.
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_bind_address = {address}
smtpd_peername_lookup = no
smtpd_client_connection_rate_limit = 0
disable_dns_lookups = yes
smtp_host_lookup = native
"""
_MAIN_CF = """\
myhostname = mx.there.test
mynetworks =
smtpd_relay_restrictions = reject_unauth_destination
smtpd_soft_error_limit = 1000
smtpd_hard_error_limit = 1000
smtputf8_enable = yes
message_size_limit = {biggest}
mailbox_size_limit = 0

virtual_mailbox_domains = there.test
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = regexp:{{ {{ !/^nobody@/ all/ }} }}
virtual_mailbox_limit = 0
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
transport_maps = inline:{{ {{ gone@there.test = gone: }}, {{ mail.sender.test = smtp:[{bounces}]:{bounces_port} }} }}

smtpd_tls_security_level = may
smtpd_tls_chain_files = {home}/tls.pem
smtpd_tls_loglevel = 1
smtpd_tls_received_header = yes
smtpd_sasl_authenticated_header = yes
smtp_tls_security_level = may
smtp_tls_loglevel = 1
smtpd_sasl_type = dovecot
smtpd_sasl_path = {home}/sasl
"""
# service type private unpriv chroot wakeup maxproc command
_MASTER_CF = """\
{address}:25 inet n - n - - smtpd
{address}:587 inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  {login}
{address}:465 inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
  {login}
gone unix - n n - - pipe flags= user=nobody argv=/bin/sh -c {{exit 67}}
"""
# The queue manager is woken each second, not each 300: what it found locked by a delivery that was just ending waits for that.
_ANY_MASTER_CF = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
_LOGIN = "-o smtpd_sasl_auth_enable=yes -o {smtpd_recipient_restrictions=permit_sasl_authenticated,reject}"


class Instance:
    """A Postfix in a home of its own, not yet started.

    A test that finds no Postfix, or may not start it (it needs root), is reported as not run.
    """

    def __init__(self, address: str) -> None:
        if not Path(_MASTER).exists():
            not_installed("Postfix")
        needs_root("Postfix")
        self.address = address
        self._home = Home("mta", as_root=True)
        self._etc = str(self._home.path / "etc")
        self._log = self._home.path / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """Ends it and removes everything of it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)
        self._home.close()

    def _start(self, main: str, services: str, ports: Sequence[int]) -> None:
        """main, services: what its main.cf and master.cf have of their own.  ports: where it then listens."""
        home = self._home.path
        for name in ("etc", "queue", "data"):
            (home / name).mkdir()
        shutil.chown(home / "data", "postfix")
        (home / "etc" / "main.cf").write_text(_ANY_MAIN_CF.format(home=home, address=self.address) + main)
        (home / "etc" / "master.cf").write_text(services + _ANY_MASTER_CF)
        said = home / "said"
        self._home.run([_POSTFIX, "-c", self._etc, "check"], START_S)  # makes the queue's directories
        # In the foreground the master is our child; its own children end when it does.
        process = self._process = self._home.popen([_MASTER, "-c", self._etc, "-d"], said)

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"Postfix ended at once:\n{tail(said)}{tail(self._log)}")
            return all(_listens(self.address, port) for port in ports)

        wait_for(ready, START_S, "Postfix to start")


class Postfix(Instance):
    """The recipients' server, running. bounces: of the return path's server.  authority: signs its certificate for `names`."""

    def __init__(self, address: str, bounces: str, authority: trustme.CA, names: Sequence[str]) -> None:
        super().__init__(address)
        self.bounces = bounces
        self._logins: Logins | None = None
        try:
            self._configure(authority, names)
        except BaseException:
            self.close()
            raise

    @property
    def logins(self) -> list[tuple[str, str]]:
        """User and password of each AUTH that reached it, right or wrong."""
        assert self._logins is not None
        return list(self._logins.seen)

    def mails(self, subject: str) -> list[bytes]:
        """What has been put into the Maildir under this subject, as it stands there."""
        folder = self._home.path / "mail" / "all" / "new"
        raws = [path.read_bytes() for path in folder.glob("*")] if folder.exists() else []
        return [raw for raw in raws if f"\nSubject: {subject}\n".encode() in raw[:65536]]

    def close(self) -> None:
        """Ends it and removes everything of it."""
        if self._logins is not None:
            self._logins.close()
        super().close()

    def _configure(self, authority: trustme.CA, names: Sequence[str]) -> None:
        home, nobody = self._home.path, pwd.getpwnam("nobody")
        (home / "mail").mkdir()
        os.chown(home / "mail", nobody.pw_uid, nobody.pw_gid)
        authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(home / "tls.pem"))
        self._logins = Logins(home / "sasl")
        values = {"home": home, "bounces": self.bounces, "bounces_port": BOUNCES_PORT, "biggest": BIGGEST_BYTES}
        main = _MAIN_CF.format(**values, uid=nobody.pw_uid, gid=nobody.pw_gid)
        self._start(main, _MASTER_CF.format(address=self.address, login=_LOGIN), (MX_PORT, 587, 465))


class Logins:
    """Answers Postfix's questions about logins, as Dovecot's authentication server does (its client protocol 1.1).

    Only PLAIN is offered. seen: what was tried.
    """

    def __init__(self, path: Path) -> None:
        self.seen: list[tuple[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rw", encoding="utf-8", newline="\n") as talk:
            talk.write("VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")
            talk.flush()
            for line in talk:
                verb, *fields = line.rstrip("\n").split("\t")
                if verb == "AUTH":
                    response = next(field for field in fields if field.startswith("resp=")).removeprefix("resp=")
                    _, user, password = base64.b64decode(response).decode().split("\0")
                    self.seen.append((user, password))
                    talk.write(
                        f"{'OK' if (user, password) == (USER, PASSWORD) else 'FAIL'}\t{fields[0]}\tuser={user}\n"
                    )
                    talk.flush()


def needs_root(what: str) -> None:
    """Ends the test where we may not start it, in CI too: no installation would mend that."""
    if os.geteuid() != 0:
        pytest.skip(f"not run: {what} has to be started by root")


def parsed(raw: bytes) -> EmailMessage:
    """A mail for people's eyes."""
    return email.message_from_bytes(raw, policy=policy.default)


def _listens(address: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((address, port)) == 0
