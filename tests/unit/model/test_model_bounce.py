"""What a refusal says about the address. The samples are worded after what receivers document or are known to say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.model.bounce import BOUNCES, BounceType, classify, codes_in, judge
from sendkit_server.model.bounce_words import ABOUT_THE_MAILBOX, ABOUT_US, HINTS_ABOUT_US

HARD, SOFT, BLOCK, UNDETERMINED = BounceType.HARD, BounceType.SOFT, BounceType.BLOCK, BounceType.UNDETERMINED

SAMPLES = [
    # Gmail
    ("550-5.1.1 The email account that you tried to reach does not exist. Please try\n550-5.1.1 double-checking the address", HARD, "no_such_user"),
    ("550-5.2.1 The email account that you tried to reach is disabled. Learn more at", HARD, "mailbox_disabled"),
    ("552-5.2.2 The recipient's inbox is out of storage space. Please direct the recipient to", SOFT, "mailbox_full"),
    ("550-5.2.1 The user you are trying to contact is receiving mail at a rate that\n550-5.2.1 prevents additional messages", BLOCK, "rate_limited"),
    ("550-5.7.1 [192.0.2.1 12] Our system has detected that this message is\n550-5.7.1 likely unsolicited mail. To reduce", BLOCK, "spam"),
    ("550-5.7.26 This mail has been blocked because the sender is unauthenticated. Gmail requires", BLOCK, "authentication"),
    ("550-5.7.26 Unauthenticated email from sender.test is not accepted due to domain's\n550-5.7.26 DMARC policy", BLOCK, "authentication"),
    ("550-5.7.25 [192.0.2.1] The IP address sending this message does not have a PTR record setup", BLOCK, "reverse_dns"),
    ("552-5.7.0 This message was blocked because its content presents a potential security issue", BLOCK, "policy"),
    ("452-4.2.2 The email account that you tried to reach is over quota", SOFT, "mailbox_full"),
    ("550-5.4.5 Daily SMTP relay sending limit exceeded for this user", BLOCK, "rate_limited"),
    # Outlook.com and Exchange
    ("550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302)", UNDETERMINED, "undetermined"),
    ("550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Part of their network is on our block list (S3150)", BLOCK, "listed"),
    ("550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal from this list please visit", BLOCK, "listed"),
    ("550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient ann@there.test not found by SMTP address lookup", HARD, "no_such_user"),
    ("550 5.4.1 Recipient address rejected: Access denied. AS(201806281) [DB5EUR03FT003]", HARD, "no_such_user"),
    ("550 5.7.1 RESOLVER.RST.AuthRequired; authentication required", BLOCK, "recipient_restricted"),
    ("550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; aren't allowed to send to the group", BLOCK, "recipient_restricted"),
    ("550 5.7.1 TRANSPORT.RULES.RejectMessage; the message was rejected by organization policy", BLOCK, "policy"),
    ("554 5.2.2 mailbox full; STOREDRV.Deliver; mailbox quota exceeded", SOFT, "mailbox_full"),
    ("554 5.4.14 Hop count exceeded - possible mail loop ATTR34", SOFT, "mail_loop"),
    ("550 5.4.310 DNS domain there.test does not exist [Message=InfoDomainNonexistent]", HARD, None),
    ("550 5.1.8 Access denied, bad outbound sender", BLOCK, "sender_refused"),
    ("550 5.7.64 TenantAttribution; Relay Access Denied", BLOCK, "relay_denied"),
    ("421 RP-001 The mail server IP connecting to Outlook.com server has exceeded the rate limit allowed", BLOCK, "rate_limited"),
    ("550 SC-001 Mail rejected by Outlook.com for policy reasons", BLOCK, "policy"),
    # Yahoo and AOL
    ("554 delivery error: dd This user doesn't have a yahoo.com account (ann@yahoo.com) [0]", HARD, "no_such_user"),
    ("554 delivery error: dd Sorry, your message cannot be delivered. This mailbox is disabled (554.30).", HARD, "mailbox_disabled"),
    ("552 5.2.2 This message is larger than the current system limit or the recipient's mailbox is full", SOFT, "mailbox_full"),
    ("554 Message not allowed - [PH01] Email not accepted for policy reasons.", BLOCK, "policy"),
    ("553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list", BLOCK, "listed"),
    ("421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints", BLOCK, "rate_limited"),
    ("550 5.1.1 <ann@aol.com>: Recipient address rejected: aol.com", HARD, "no_such_user"),
    # Apple
    ("550 5.1.1 <ann@icloud.com>: user does not exist", HARD, "no_such_user"),
    ("554 5.7.1 [CS01] Message rejected due to local policy.", BLOCK, "policy"),
    ("552 5.2.2 <ann@icloud.com>: user is over quota", SOFT, "mailbox_full"),
    ("550 5.1.6 recipient no longer on server: ann@mac.com", HARD, None),
    # Gateways
    ("550 Invalid Recipient - https://community.mimecast.test/docs/DOC-1369#550 [aBcD]", HARD, "no_such_user"),
    ("550 Rejected by header based manually Blocked Senders: anything", BLOCK, "sender_refused"),
    ("554 Email rejected due to security policies - https://community.mimecast.test/#554", BLOCK, "policy"),
    ("550 Anti-Spoofing policy - Inbound not allowed", BLOCK, "authentication"),
    ("550 5.7.0 Local Policy Violation", BLOCK, "policy"),
    ("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using Proofpoint", BLOCK, "listed"),
    ("550 permanent failure for one or more recipients (ann@there.test:550 5.1.1 User unknown)", HARD, "no_such_user"),
    ("550 permanent failure for one or more recipients (ann@there.test:blocked)", BLOCK, "policy"),
    ("554 Service unavailable; Client host [mx.here.test] blocked using Barracuda Reputation", BLOCK, "listed"),
    ("550 #5.1.0 Address rejected.", HARD, "no_such_user"),
    ("554 5.7.1 Your access to this mail system has been rejected due to the sending MTA's poor reputation", BLOCK, "listed"),
    # GMX, web.de and others in Germany
    ("550 Requested action not taken: mailbox unavailable", UNDETERMINED, "undetermined"),
    ("552 Requested mail action aborted: exceeded storage allocation", SOFT, "mailbox_full"),
    ("554 Transaction failed. Reject due to policy restrictions.", BLOCK, "policy"),
    ("554 Bad DNS PTR resource record", BLOCK, "reverse_dns"),
    # Mail.ru and Yandex
    ("550 Message was not accepted -- invalid mailbox. Local mailbox ann@mail.ru is unavailable: user not found", HARD, "no_such_user"),
    ("550 spam message rejected. Please visit http://help.mail.ru/notspam-support/", BLOCK, "spam"),
    ("550 5.7.1 No such user!", HARD, "no_such_user"),
    ("554 5.7.1 [1] Message rejected under suspicion of SPAM", BLOCK, "spam"),
    ("552 5.2.2 Mailbox size limit exceeded", SOFT, "mailbox_full"),
    # Postfix
    ("550 5.1.1 <ann@there.test>: Recipient address rejected: User unknown in virtual mailbox table", HARD, "no_such_user"),
    ("450 4.1.1 <ann@there.test>: Recipient address rejected: User unknown in local recipient table", SOFT, "temporary_refusal"),
    ("554 5.7.1 <ann@there.test>: Relay access denied", BLOCK, "relay_denied"),
    ("450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", BLOCK, "reverse_dns"),
    ("450 4.1.8 <b@here.test>: Sender address rejected: Domain not found", BLOCK, "sender_refused"),
    ("450 4.2.0 <ann@there.test>: Recipient address rejected: Greylisted", SOFT, "greylisted"),
    ("5.4.4 Host or domain name not found. Name service error for name=there.test type=AAAA: Host not found", HARD, "no_such_domain"),
    ("4.4.1 connect to mx.there.test[192.0.2.1]:25: Connection timed out", SOFT, "not_reached"),
    ("5.4.6 mail for there.test loops back to myself", SOFT, "mail_loop"),
    # Exim
    ("Unrouteable address", HARD, "no_such_user"),
    ("retry timeout exceeded", SOFT, "not_reached"),
    ("550 No Such User Here", HARD, "no_such_user"),
    ("550 Verification failed for <b-1@here.test>", BLOCK, "sender_refused"),
    ("all relevant MX records point to non-existent hosts", HARD, "no_such_domain"),
    ("The account or domain may not exist, they may be blacklisted, or missing the proper dns entries.", UNDETERMINED, "undetermined"),
    # qmail
    ("Sorry, no mailbox here by that name. (#5.1.1)", HARD, "no_such_user"),
    ("Sorry, I couldn't find any host named there.test. (#5.1.2)", HARD, "no_such_domain"),
    ("Sorry, I wasn't able to establish an SMTP connection. (#4.4.1) this message has been in the queue too long.", SOFT, "not_reached"),
    ("sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", BLOCK, "relay_denied"),
    ("The users mailfolder is over the allowed quota (size). (#5.2.2)", SOFT, "mailbox_full"),
    # Others
    ("User ann (ann@there.test) not listed in Domino Directory", HARD, "no_such_user"),
    ("550 : User unknown", UNDETERMINED, "undetermined"),
    ("552 5.3.4 Message size exceeds fixed limit", BLOCK, "message_too_large"),
    ("550 5.7.1 Message contains a virus", BLOCK, "content_refused"),
    ("556 5.1.10 The domain does not accept mail (nullMX)", HARD, "null_mx"),
    ("550 5.1.7 No such domain here.test", BLOCK, "sender_refused"),
    ("SMTP error from remote mail server after MAIL FROM:<b-1@here.test>: 550 domain does not exist", BLOCK, "sender_refused"),
    ("550 5.1.1 Unknown recipient; see https://spamfilter.there.test/policy", HARD, "no_such_user"),
    ("550 5.1.1 rejected: listed at zen.spamhaus.org", BLOCK, "listed"),
    ("Invalid Address, ERROR_CODE :550, ERROR_CODE :Requested action not taken: mailbox unavailable", UNDETERMINED, "undetermined"),
    ("5.1.0 - Unknown address error 550-'5.7.1 Access denied'", BLOCK, "policy"),
    ("571 go away", BLOCK, "policy"),
    ("550 Administrative decision", UNDETERMINED, "undetermined"),
    ("", UNDETERMINED, "undetermined"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "type_", "subtype"), SAMPLES)
def test_the_words_of_servers_are_judged(said: str, type_: BounceType, subtype: str | None):
    judged = classify(None, None, said)
    assert judged.type is type_, judged
    assert subtype is None or judged.subtype == subtype


NAMES = ["greylist", "blacklist", "spamhaus", "dmarc", "virus", "rbl", "surbl", "dkim", "spam", "policy"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "said",
    [
        "550 5.1.1 User unknown",
        "550 5.1.1 <joe@{name}.test>: Recipient address rejected: User unknown in virtual mailbox table",
        "550 5.1.1 <{name}@there.test>: Recipient address rejected: User unknown in virtual mailbox table",
        "550 <{name}@there.test>: Recipient address rejected: User unknown in virtual mailbox table",
        '550 <"{name} of us"@there.test>: User unknown',
        "550 5.1.1 User {name} ({name}@{name}.test) not found: no such user",
        "550 no such user (mx2.{name}.test); see https://www.{name}.test/help",
        "550 5.1.1 {name}: no such user",
        "host mx.{name}.example[192.0.2.1] said: 550 User unknown (in reply to RCPT TO command)",
    ],
)
def test_names_are_no_words(said: str, name: str):
    prefix = f"mx.{name}.test said after RCPT: "
    for text in (said, prefix + said, f"Given up after 48 h. The last try: {prefix}{said}"):
        judged = classify(550, None, text.format(name=name), f"{name}.test")
        assert judged.subtype == "no_such_user", text


@pytest.mark.parametrize(
    ("said", "subtype"),
    [
        ("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", "listed"),
        ("550 192.0.2.1 is found on dnsbl.sorbs.test", "listed"),
        ("550 rejected, see http://www.spamhaus.org/query/bl?ip=192.0.2.1", "listed"),
        ("550 listed at multi.surbl.org", "listed"),
        ("550 no; http://www.spamhaus.org/query?to=ann@there.test", "listed"),
        ("550 5.1.1 rejected: 192.0.2.1 is listed at bl.spamcop.net", "listed"),
        ("550 5.1.1 Sender address rejected: User unknown", "sender_refused"),
        ("550 5.1.1 User unknown or too many recipients", "rate_limited"),
        ("550 mail from sender.test does not pass its DMARC", "authentication"),
    ],
)
def test_names_of_block_lists_and_words_about_us_still_count(said: str, subtype: str):
    assert classify(550, None, f"mx.there.test said after RCPT: {said}", "there.test").subtype == subtype


@pytest.mark.parametrize(
    ("reason", "code", "enhanced", "subtype"),
    [
        ("no_such_domain", 550, "5.1.2", "no_such_domain"),
        ("no_mail_host", 550, "5.1.2", "no_such_domain"),
        ("null_mx", 556, "5.1.10", "null_mx"),
    ],
)
@pytest.mark.parametrize("domain", ["nx.test", "greylist.test", "rbl-nx.test", "spamhaus.test"])
def test_what_sendkit_finds_of_a_domain_is_not_judged_by_words(
    reason: str, code: int, enhanced: str, subtype: str, domain: str
):
    judged = judge(reason, code, enhanced, f"The domain {domain} does not exist.", domain)
    assert (judged.type, judged.subtype) == (HARD, subtype)


def test_a_servers_words_are_judged_even_where_its_code_speaks_of_the_domain():
    said = (
        "mx.there.test said after RCPT: 550 5.1.10 RecipientNotFound; ann@there.test not found by SMTP address lookup"
    )
    assert judge("null_mx", 550, "5.1.10", said, "there.test").subtype == "no_such_user"


CODES = [
    (550, "5.1.1", HARD, "no_such_user"),
    (550, "5.1.2", HARD, "no_such_domain"),
    (550, "5.1.3", HARD, "bad_address"),
    (551, "5.1.6", HARD, "mailbox_moved"),
    (556, "5.1.10", HARD, "null_mx"),
    (550, "5.2.1", HARD, "mailbox_disabled"),
    (552, "5.2.2", SOFT, "mailbox_full"),
    (552, None, SOFT, "mailbox_full"),
    (554, "5.3.0", SOFT, "system_trouble"),
    (552, "5.3.4", BLOCK, "message_too_large"),
    (None, "5.4.7", SOFT, "not_reached"),
    (None, "4.4.1", SOFT, "not_reached"),
    (550, "5.6.1", BLOCK, "content_refused"),
    (550, "5.7.1", BLOCK, "policy"),
    (550, "5.7.23", BLOCK, "authentication"),
    (550, "5.7.28", BLOCK, "rate_limited"),
    (550, None, UNDETERMINED, "undetermined"),
    (554, None, UNDETERMINED, "undetermined"),
    (550, "5.0.0", UNDETERMINED, "undetermined"),
    (550, "5.5.0", UNDETERMINED, "undetermined"),
    (503, "5.5.1", UNDETERMINED, "protocol_error"),
    (450, "4.1.1", SOFT, "temporary_refusal"),
    (451, None, SOFT, "temporary_refusal"),
    (None, None, UNDETERMINED, "undetermined"),
]


@pytest.mark.parametrize(("code", "enhanced", "type_", "subtype"), CODES)
def test_without_words_the_codes_decide(code: int | None, enhanced: str | None, type_: BounceType, subtype: str):
    judged = classify(code, enhanced, "")
    assert (judged.type, judged.subtype) == (type_, subtype)


@pytest.mark.parametrize(("group", "phrases"), ABOUT_US + ABOUT_THE_MAILBOX)
def test_every_phrase_is_found_and_means_its_group_or_one_before_it(group: str, phrases: tuple[str, ...]):
    order = [name for name, _ in ABOUT_US + ABOUT_THE_MAILBOX]
    expected = order[: order.index(group) + 1]
    assert [phrase for phrase in phrases if classify(550, None, f"well, {phrase} it is").subtype not in expected] == []


def test_every_group_has_a_judgement_with_sentences_for_people():
    for group, _ in ABOUT_US + ABOUT_THE_MAILBOX + HINTS_ABOUT_US:
        assert group in BOUNCES
    for bounce in BOUNCES.values():
        assert bounce.explanation.endswith(".") and bounce.action.endswith(".")
        assert ("suppressed from now on" in bounce.action) == bounce.suppresses


@pytest.mark.parametrize(
    ("text", "code", "enhanced"),
    [
        ("550 5.1.1 no", 550, "5.1.1"),
        ("550-5.1.1 no", 550, "5.1.1"),
        ("(#5.1.1)", None, "5.1.1"),
        ("host 192.0.2.5 said: 554 no", 554, None),
        ("5.1.1.1 is an address, 4500 a number", None, None),
        ("no codes at all", None, None),
    ],
)
def test_codes_are_found_in_words(text: str, code: int | None, enhanced: str | None):
    assert codes_in(text) == (code, enhanced)


@given(
    st.one_of(st.none(), st.integers(200, 599)), st.from_regex(r"[245]\.\d{1,3}\.\d{1,3}", fullmatch=True), st.text()
)
def test_a_temporary_refusal_never_suppresses_and_nothing_raises(code: int | None, enhanced: str, text: str):
    judged = classify(code, enhanced, text)
    assert not (judged.suppresses and enhanced.startswith("4"))
