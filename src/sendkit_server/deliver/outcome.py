"""What becomes of a recipient after a try. The policy in sentences; the code below is that text again.

1. Only a 2xx to the final dot delivers.
2. A 5xx of the recipient's server to MAIL, RCPT, DATA or the dot ends it: bounced. A 4xx defers.
   One exception: "too many recipients" to a RCPT after others were taken, said with 550, 552 or 554 and X.5.3
   (RFC 3463) or in words, or by a bare 552 (RFC 5321 4.5.3.1.10): the rest goes in the next try.
3. What is said before MAIL (no connection, greeting, EHLO, STARTTLS, AUTH) is about the host, not about the mail:
   the next host, the next route, else deferred, be it 4xx or 5xx.
4. A lost connection, a missed deadline or a reply no server may give: deferred. When the message had been sent and
   only the answer to it is missing, it may be there already: deferred and marked as a possible duplicate, because
   trying again risks a double, and not trying risks a loss (RFC 5321 4.5.3.2.6 wants ten minutes before that).
5. A domain that does not exist, or says that it takes no mail (null MX), or has neither MX nor address: bounced.
   Of several DNS servers two must say so. DNS that cannot be asked: deferred. Addresses we must not connect to:
   deferred, the operator can mend it.
6. A mail that this server cannot carry (SIZE, 8BITMIME, SMTPUTF8) and every re-encoding was tried: failed.
7. A host that does not satisfy the domain's MTA-STS policy or its own TLSA records is treated as in rule 3, but no other
   route takes such a mail over: deferred.
8. Deferred when the retry window is over: failed. When the mail's own deadline is over, whatever it waits for: expired.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sendkit_server.model.outcome import Outcome, Result
from sendkit_server.net.resolver import DnsProblem, DnsTrouble
from sendkit_server.wire.smtp_client import Capabilities, Reply, Step, Trouble, Verdict

CAPTURED = Outcome(Result.DELIVERED, "captured", "Kept for the inbox; it did not leave this server.")
DKIM_KEY_MISSING = Outcome(
    Result.DEFERRED,
    "dkim_key_missing",
    "The From domain has no DKIM key on this server, and mail is not sent unsigned.",
)
COMPOSE_FAILED = Outcome(
    Result.DEFERRED, "compose_failed", "The message could not be composed or signed; the server's log says why."
)
OUR_FAULT = Outcome(
    Result.DEFERRED, "internal_fault", "Something went wrong on this server while delivering; its log says what."
)
LOOPS_BACK = Outcome(
    Result.DEFERRED,
    "loops_back",
    "The domain's mail hosts are this server itself: the mail would come back to where it is.",
    enhanced="5.4.6",
)

MTA_STS_FAILED = "mta_sts_failed"
DANE_FAILED = "dane_failed"
SMARTHOST_AUTH_FAILED = "smarthost_auth_failed"
TOO_MANY_RECIPIENTS = "too_many_recipients"

EXPIRED = Outcome(Result.EXPIRED, "expired", "Its expires_at came before it could be delivered; it was not sent.")

# Enhanced codes X.subject.detail (RFC 3463) that say more than the code before them.
_REASONS_BY_DETAIL = {
    "1.1": "mailbox_unavailable",
    "1.2": "no_such_domain",
    "1.3": "bad_address",
    "1.6": "mailbox_moved",
    "1.8": "sender_refused",
    "1.10": "null_mx",
    "2.1": "mailbox_disabled",
    "2.2": "mailbox_full",
    "2.3": "message_too_large",
    "3.4": "message_too_large",
    "5.3": TOO_MANY_RECIPIENTS,
    "6.7": "smtputf8_required",
}
_REASONS_BY_SUBJECT = {"1": "mailbox_unavailable", "3": "system_refused", "4": "network_trouble", "7": "policy"}
_REASONS_BY_CODE = {421: "service_unavailable", 450: "mailbox_busy", 452: "system_full", 552: "mailbox_full"}
_TOO_MANY = re.compile(r"too many (?:recipients|rcpts?)\b", re.IGNORECASE)
_REASONS_BY_STEP = {
    Step.MAIL: "sender_refused",
    Step.RCPT: "recipient_refused",
    Step.DATA: "message_refused",
    Step.MESSAGE: "message_refused",
}


def classify(verdict: Verdict, host: str, *, others_taken: bool = False) -> Outcome:
    """A recipient's outcome from what decided over it in a transaction.

    others_taken: the same transaction had recipients that were accepted before (rule 2's exception).
    """
    reply = verdict.reply
    if reply is None:
        return _without_reply(verdict, host)
    code, enhanced = reply.code, reply.enhanced
    if code < 400:
        return Outcome(Result.DELIVERED, "delivered", f"{host} said: {reply.transcript}", code, enhanced)
    too_many = others_taken and verdict.step is Step.RCPT and _is_too_many(reply)
    result = Result.DEFERRED if code < 500 or too_many else Result.BOUNCED
    reason = TOO_MANY_RECIPIENTS if too_many else reason_of(verdict.step, reply)
    return Outcome(result, reason, f"{host} said after {_wording(verdict.step)}: {code} {reply.text}", code, enhanced)


def _is_too_many(reply: Reply) -> bool:
    if reply.code not in (550, 552, 554):
        return False
    if reply.enhanced is None and reply.code == 552:
        return True
    return (reply.enhanced or "").endswith(".5.3") or _TOO_MANY.search(reply.text) is not None


def reason_of(step: Step, reply: Reply) -> str:
    """A stable word for a refusal: from the enhanced code, else from the code, else from where it was said."""
    if (enhanced := reply.enhanced) is not None:
        _, subject, detail = enhanced.split(".")
        found = _REASONS_BY_DETAIL.get(f"{subject}.{detail}") or _REASONS_BY_SUBJECT.get(subject)
        if found is not None:
            return found
    if found := _REASONS_BY_CODE.get(reply.code):
        return found
    return "temporary_refusal" if reply.code < 500 else _REASONS_BY_STEP.get(step, "host_refused")


def host_trouble(verdict: Verdict, host: str) -> Outcome:
    """Deferred: a host that took the connection, but no mail (rule 3)."""
    if verdict.reply is None:
        reason = {Step.STARTTLS: "tls_failed", Step.AUTH: SMARTHOST_AUTH_FAILED}.get(verdict.step)
        if reason is None or verdict.trouble is not Trouble.POLICY:
            reason = str(verdict.trouble)
        return Outcome(Result.DEFERRED, reason, f"{host}: {verdict.text}.")
    reply = verdict.reply
    reason = {Step.STARTTLS: "tls_refused", Step.AUTH: SMARTHOST_AUTH_FAILED}.get(verdict.step, "host_refused")
    text = f"{host} said at {_wording(verdict.step)}: {reply.code} {reply.text}"
    return Outcome(Result.DEFERRED, reason, text, reply.code, reply.enhanced)


def policy_trouble(reason: str, host: str, why: str, *, enhanced: str = "4.7.5") -> Outcome:
    """Deferred: a host that may not get the mail (rule 7). reason: MTA_STS_FAILED or DANE_FAILED.

    enhanced: RFC 3463 and 5248 know 4.7.4 for "no TLS there", 4.7.5 for "TLS, but it proves nothing", 4.7.0 for the rest.
    """
    what = "DANE" if reason == DANE_FAILED else "MTA-STS"
    return Outcome(Result.DEFERRED, reason, f"{what} does not allow {host}: {why}.", enhanced=enhanced)


def unreachable(text: str, *, refused_by_us: bool) -> Outcome:
    """Deferred: no connection to any address. refused_by_us: the guard forbade the last of them."""
    if refused_by_us:
        hint = "SENDKIT_ALLOW_PRIVATE_NETWORKS can allow it"
        return Outcome(Result.DEFERRED, "address_refused", f"Not connected to: {text} ({hint}).", enhanced="4.4.4")
    return Outcome(Result.DEFERRED, "connect_failed", f"No connection: {text}.", enhanced="4.4.1")


def domain_trouble(problem: DnsProblem) -> Outcome:
    """What DNS said of a recipient's domain (rule 5)."""
    match problem.trouble:
        case DnsTrouble.NO_DOMAIN:
            return Outcome(Result.BOUNCED, "no_such_domain", f"{_sentence(problem.text)}.", 550, "5.1.2")
        case DnsTrouble.NULL_MX:
            return Outcome(Result.BOUNCED, "null_mx", f"{_sentence(problem.text)}.", 556, "5.1.10")
        case DnsTrouble.NO_ADDRESS:
            return Outcome(Result.BOUNCED, "no_mail_host", f"{_sentence(problem.text)}.", 550, "5.1.2")
        case DnsTrouble.UNAVAILABLE:
            return Outcome(Result.DEFERRED, "dns_unavailable", f"{_sentence(problem.text)}.", enhanced="4.4.3")


def host_name_trouble(text: str) -> Outcome:
    """Deferred: the names of the mail hosts lead to no address. The domain asked for mail, so this is a mistake there."""
    return Outcome(Result.DEFERRED, "no_mail_host", f"{_sentence(text)}.", enhanced="4.4.4")


def relay_not_found(name: str, text: str, *, is_known: bool) -> Outcome:
    """Deferred: the name of a route's relay leads to no address. is_known: DNS says so, and not that it cannot be asked."""
    reason, enhanced = ("no_mail_host", "4.4.4") if is_known else ("dns_unavailable", "4.4.3")
    return Outcome(
        Result.DEFERRED, reason, f"The relay of this route, {name}, is not found: {text}.", enhanced=enhanced
    )


def no_common_family(sources: Sequence[str]) -> Outcome:
    """Deferred: a route's source addresses are all IPv4 and the hosts' all IPv6, or the other way round."""
    text = f"The mail hosts have no address of the kind that this route connects from ({', '.join(sources)})."
    return Outcome(Result.DEFERRED, "connect_failed", text, enhanced="4.4.1")


def provider_refuses(text: str) -> Outcome:
    """Deferred: a provider takes no such mail, or none at all, as it is set up."""
    return Outcome(Result.DEFERRED, "provider_refuses", f"{_sentence(text)}.", enhanced="4.7.0")


def warm_up_cap(address: str, receiver: str, cap: int) -> Outcome:
    """Deferred, without a try: a new source address has sent what it may today, and no other way is left."""
    text = f"{address} is being warmed up: today it sends {receiver} at most {cap} mails, and it has."
    return Outcome(Result.DEFERRED, "warm_up_cap", text, enhanced="4.7.0")


def obstacles(
    capabilities: Capabilities,
    addresses: Sequence[str],
    return_path: str,
    size_bytes: int,
    *,
    eightbit: bool,
    smtputf8: bool,
) -> list[Outcome | None]:
    """For each recipient why the mail cannot travel to this server, None where it can (rule 6)."""
    limit = capabilities.size_bytes
    if limit is not None and size_bytes > limit:
        text = f"The message has {size_bytes} bytes; the server takes at most {limit}."
        return [Outcome(Result.FAILED, "message_too_large", text, 552, "5.3.4")] * len(addresses)
    if eightbit and not capabilities.eightbit:
        text = "The message holds 8-bit data that cannot be re-encoded, and the server does not take any."
        return [Outcome(Result.FAILED, "eightbit_required", text, 554, "5.6.1")] * len(addresses)
    if capabilities.smtputf8:
        return [None] * len(addresses)
    text = "The server does not take internationalized addresses or headers (SMTPUTF8)."
    failed = Outcome(Result.FAILED, "smtputf8_required", text, 553, "5.6.7")
    needed = smtputf8 or not return_path.isascii()
    return [failed if needed or not address.isascii() else None for address in addresses]


def gave_up(outcome: Outcome, window_ms: int) -> Outcome:
    """The last deferral of a recipient whose retry window is over (rule 8)."""
    text = f"Given up after {window_ms / 3_600_000:g} h. The last try: {outcome.text}"
    return Outcome(Result.FAILED, outcome.reason, text, outcome.code, outcome.enhanced, outcome.possible_duplicate)


def _without_reply(verdict: Verdict, host: str) -> Outcome:
    if verdict.step is Step.MESSAGE:
        text = f"{host} gave no valid answer to the message ({verdict.text}): it may have arrived all the same."
        reason = "no_reply_after_dot" if verdict.trouble is not Trouble.PROTOCOL else "protocol_error"
        return Outcome(Result.DEFERRED, reason, text, possible_duplicate=True)
    return Outcome(Result.DEFERRED, str(verdict.trouble), f"{host}, at {_wording(verdict.step)}: {verdict.text}.")


def _wording(step: Step) -> str:
    return "the message" if step is Step.MESSAGE else "the greeting" if step is Step.GREETING else str(step)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
