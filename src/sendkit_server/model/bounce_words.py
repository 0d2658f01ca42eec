"""The words of refusals, by what they mean: phrases of the big receivers, of gateways and of servers old and new.

Phrases are in lower case; the first that is in a text decides, so the order of the groups is a policy (model.bounce says
which). A `␣` is a blank that belongs to the phrase.
"""

from __future__ import annotations

Groups = tuple[tuple[str, tuple[str, ...]], ...]


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip().replace("␣", " ") for phrase in " ".join(text.split()).split(" | "))


ABOUT_US: Groups = (
    # Said of many causes at once; and, without an address, by Japanese carriers when a filter refuses.
    (
        "undetermined",
        _phrases(
            """
            may not exist, they may be blacklisted | ␣:␣user␣unknown
            """
        ),
    ),
    (
        "rate_limited",
        _phrases(
            """
            receiving mail at a rate | receiving mail too quickly | rate limit | sending limit | message rate | too
            many messages | too many connections | too many emails | throttl | unexpected volume | unusual rate |
            sending quota | quota for sending | hourly limit | daily limit | too many concurrent | too much mail |
            exceeded the maximum number of messages | max message per connection | too many invalid recipients | too
            many recipients | too many unknown
            """
        ),
    ),
    (
        "authentication",
        _phrases(
            """
            dmarc | spf fail | spf check | spf record | spf softfail | sender policy framework | spf validation |
            failed spf | not pass spf | spf: fail | domainkeys identified | dkim | unauthenticated | not
            authenticated | authentication check | authentication-failure | spoofed | spoofing | (spf) | by spf |
            not allowed to send mail from | is not allowed to send mail | not authorized to send from | is not
            permitted to send mail from | violates spf
            """
        ),
    ),
    (
        "listed",
        _phrases(
            """
            spamhaus | spamcop | barracudacentral | dnsbl | senderscore | uceprotect | surbl | uribl | blocklist |
            block list | blacklist | black list | deny list | denylist | blocked using | reputation | banned sending
            ip | banned sender | banned ip | client host blocked | your ip | ip address is blocked | ip is blocked |
            ip has been blocked | ip address has been blocked | access from ip address | your access to this mail
            system has been rejected | your access to submit messages | blocked by mailspike | not in whitelist |
            known spammer | blocked for abuse | cloudmark | dynamic ip | dial-up | dialup | refused to talk to me |
            has been banned | ␣rbl | .rbl | ␣sorbs | .sorbs
            """
        ),
    ),
    (
        "spam",
        _phrases(
            """
            likely unsolicited | unsolicited mail | unsolicited bulk | suspicion of spam | spam message | as spam |
            spam content | spam detected | looks like spam | considered spam | spam score | is spam | appears to be
            spam | appears to be unsolicited | detected spam | high probability of spam | spamassassin | suspicious
            content | suspected spam | bulk mail | junk mail | unwanted mail | similar messages | identified spam |
            spam rejected | classified as | spam or virus | rejected by spam | contains spam | spam-like | spammy
            """
        ),
    ),
    (
        "message_too_large",
        _phrases(
            """
            message too large | message is too large | message size exceeds | too big | message larger than |
            exceeds size limit | exceeds maximum message | exceeds the maximum size | message exceeded max | size
            limit for this | max message size | maximum message size | recipsizelimit | message length exceeds |
            exceeds the size limit
            """
        ),
    ),
    (
        "content_refused",
        _phrases(
            """
            virus | malware | attachment type | attachment is not | attachments are not | attachment not allowed |
            blocked attachment | attachment name | attachment was | forbidden attachment | banned content | illegal
            attachment | content reject | message content | content filter | content restriction | unacceptable
            content | phishing | prohibited content | rejected due to content | contentrejected | header line |
            invalid header | bare lf | illegal characters | not rfc | rfc 5322 | rfc 2822 | rfc2822 | duplicate
            header
            """
        ),
    ),
    (
        "reverse_dns",
        _phrases(
            """
            reverse dns | rdns | reverse hostname | ptr record | ptr resource record | no ptr | reverse lookup |
            does not resolve to | helo command rejected | ehlo command rejected | invalid helo | bad helo | helo
            name | helo rejected | reverse mapping
            """
        ),
    ),
    (
        "sender_refused",
        _phrases(
            """
            sender address rejected | sender rejected | sender verify | sender verification | sender denied | bad
            sender | bad outbound sender | sender domain | sender's domain | domain of sender | sender address has |
            sender is blocked | blocked sender | verification failed for | callout verification failure | envelope
            sender | sender id | sender not allowed | badmailfrom | mail from refused | invalid sender |
            unresolvable sender | sender unknown | unknown sender | sender address is not valid | return path |
            return-path | sender invalid | mail from command rejected | the sender's mail | has blocked you | sender
            blocked | sender has been blocked
            """
        ),
    ),
    (
        "recipient_restricted",
        _phrases(
            """
            rst.notauthorized | rst.authrequired | rst.rejectgroup | not authorized to send to | restricted
            recipient | accepts only mail from | only accepts mail from | restrictions on who can send | not accept
            mail from you | does not accept mail from | doesn't accept mail from | subscribers only | members only |
            must be a member | refuses your mail | user has blocked | does not wish to receive | doesn't wish to
            receive | is refusing mail from | don't have permission | delivery not authorized | message refused by |
            you must be in my | not in the list of allowed senders | is not in the allowed | allow list | permission
            to post | aren't allowed to send | isn't authorized to send | not allowed to send to | recipient
            preferences
            """
        ),
    ),
    (
        "tls_required",
        _phrases(
            """
            starttls first | tls required | must issue a starttls | encryption required | requires tls | tls is
            required
            """
        ),
    ),
    (
        "policy",
        _phrases(
            """
            policy reasons | security polic | local policy | policy violation | policy restriction | due to policy |
            administrative prohibition | administratively denied | prohibited by administrator | against policy |
            policy that prohibited | policy reject | violates our policy | organization's policy | organizational
            policy | content policy | acceptance policy | by policy | transport.rules.reject | transport rule | mail
            flow rule | rejected by the recipient's organization | delivery restriction | due to security | message
            blocked | mail blocked | message was blocked | was blocked by | ctm policy
            """
        ),
    ),
    (
        "greylisted",
        _phrases(
            """
            greylist | graylist | grey list | gray list | delayed to weed out spam
            """
        ),
    ),
)
ABOUT_THE_MAILBOX: Groups = (
    (
        "mailbox_full",
        _phrases(
            """
            over quota | overquota | quota exceeded | exceeded quota | exceeds quota | exceeded storage | exceeds
            storage | box full | box is full | over the allowed quota | out of storage | not enough storage |
            insufficient storage | exceeded the quota | exceed the quota | storage allocation | quota limit |
            mailbox size limit | mailbox limit | disk quota | quota reached | enough space | full mailbox | over its
            quota | above quota | over disk | no space left | overdrawn | exceeded its quota | exceed quota |
            storage quota | quota violation | quotaexceeded | quota_exceeded | mailfolder is full | mailfolder is
            over | too full | no room in mailbox | not enough room | mailbox has exceeded | account is full |
            reached its maximum size | mailbox space | mail quota | boîte pleine | ist voll | postfach voll | llena
            | has exceeded its | limit on storage | mailbox full | mailbox is full | inbox is full
            """
        ),
    ),
    (
        "not_reached",
        _phrases(
            """
            retry timeout exceeded | retry time not reached | message expired | in the queue too long | time expired
            | could not be delivered for | not been able to deliver | connection refused | timed out | no route to
            host | network is unreachable | host unreachable | connection reset | lost connection | unable to
            establish | wasn't able to establish | not able to establish | failing for a long time | max retries |
            maximum retries | too old | delivery expired | cannot connect | could not connect | unable to connect |
            retry limit | connection dropped | connection closed | delivery timed | no answer from host | bad
            connection | smtp error from remote mail server after end of data: timeout | temporarily unable to
            deliver | retry count | retry period | delivery period | couldn't connect | connect failed | failed to
            connect | temporary failure in name | try again later | unable to deliver this message in a timely |
            maximum time in queue | not found, try again | queue lifetime | for too long | temporary dns
            """
        ),
    ),
    (
        "mail_loop",
        _phrases(
            """
            too many hops | hop count | mail loop | loops back | routing loop | loop detected | maximum hop | loop
            count | too many received | loop: too many | loopback | forwarding loop | looping
            """
        ),
    ),
    (
        "mailbox_disabled",
        _phrases(
            """
            mailbox disabled | mailbox is disabled | account disabled | account is disabled | account has been
            disabled | user is disabled | deactivated | account inactive | mailbox inactive | inactive user | user
            inactive | is inactive | been inactive | not active | account suspended | account is suspended | account
            expired | account has expired | account closed | account has been closed | no longer accepts | no longer
            in use | no longer on server | no longer exist | discontinued | account locked | user is unavailable |
            this mailbox is not in use | account is not available | unused for | address is administratively
            disabled | user suspended | mailbox suspended | account has been suspended | user is terminated |
            account terminated | account has been removed | mailbox has been removed | account has been deleted |
            mailbox has been deleted | account was deleted | mailbox is no longer | address is no longer | user is
            no longer | account is no longer | has left the | tried to reach is disabled | disabled mailbox |
            mailbox has been disabled | no longer works | no longer a valid
            """
        ),
    ),
    (
        "mailbox_moved",
        _phrases(
            """
            has moved | user not local; please try | please try < | new address is | address has changed | changed
            his address
            """
        ),
    ),
    (
        "null_mx",
        _phrases(
            """
            host does not accept mail | domain does not accept mail | null mx | nullmx | indicated no smtp service |
            domain does not accept email
            """
        ),
    ),
    (
        "no_such_domain",
        _phrases(
            """
            dns lookup failure: host | no mx record found | domain does not exist | domain doesn't exist | no such
            domain | nonexistent domain | non-existent domain | host unknown | unknown host | host not found |
            domain not found | nxdomain | domain name not found | unrouteable mail domain | couldn't find any host |
            couldn't find a mail exchanger | no mx found | bad destination host | bad destination system |
            non-existent hosts | cannot find domain | unknown domain | all relevant mx records point | name or
            service not known | domain is not hosted | can't find domain | illegal host/domain | badly formed or
            non-existent | no mail server | no mail exchanger | not find any mail | misspelled domain | no valid mx
            | no matches to nameserver
            """
        ),
    ),
    (
        "bad_address",
        _phrases(
            """
            malformed address | invalid address format | syntax error in recipient | illegal address | not a valid
            rfc | malformed recipient | address is malformed | illegal alias | ambiguous address | invalid recipient
            syntax | address syntax | local part contains | misformatted
            """
        ),
    ),
    (
        "no_such_user",
        _phrases(
            """
            user unknown | unknown user | no such user | doesn't exist | no such mailbox | mailbox not found | user
            not found | recipient not found | recipnotfound | recipientnotfound | unknown recipient | recipient
            unknown | invalid recipient | unrouteable address | unroutable address | no such recipient | no such
            address | address unknown | unknown address | unknown mailbox | mailbox unknown | invalid mailbox |
            invalid user | not a known user | not a valid user | not a valid mailbox | no such account | unknown
            account | account not found | account unknown | doesn't have a | not have an account | address not found
            | could not be found | couldn't be found | recipient address rejected: access denied | not our customer
            | no mailbox | recipients unknown | no valid recipient | unknown to address | nosuchuser | no one by
            that name | user name is unknown | cannot find user | cannot find the user | can't find user | unknown
            or illegal alias | bad recipient | bad destination mailbox | mailbox does not | address rejected:
            undeliverable | no known user | unknown email | undeliverable address | destination address rejected |
            #5.1.0 address rejected | invalid address | address invalid | not a valid recipient | not a valid
            address | email name is not found | no local mailbox | user account is unavailable | not deliverable to
            | usuario desconocido | utilisateur inconnu | destinataire inconnu | benutzer unbekannt | empfänger
            unbekannt | no existe | inesistente | non esiste | sconosciuto | onbekende | адресат не найден | does
            not exist | no user here | no account by that name | no account here | wasn't found at | final delivery
            userid | unknown local part | unknown local-part | user does not have | recipient does not | not listed
            in | isn't a valid recipient | invalid or non-existent | address is not valid | user not exist
            """
        ),
    ),
    (
        "relay_denied",
        _phrases(
            """
            relay access denied | relaying denied | relay not permitted | unable to relay | cannot relay | relaying
            not allowed | relay denied | allowed rcpthosts | relaying is prohibited | prohibits relaying | relaying
            prohibited | not permitted to relay | relay operation rejected | relaying to | does not relay | relay is
            denied | relay not allowed | relaying mail to | relaying disallowed | relaying not permitted
            """
        ),
    ),
    (
        "system_trouble",
        _phrases(
            """
            insufficient system storage | system not accepting | internal error | local configuration error |
            service unavailable | configuration problem | system config | server error | i/o error | can't create
            output | out of memory | read-only file system | temporarily unavailable | mailer error | storedrv |
            user over load | service not available | system error | insufficient resources
            """
        ),
    ),
)
HINTS_ABOUT_US: Groups = (
    (
        "spam",
        _phrases(
            """
            spam | unsolicited
            """
        ),
    ),
    (
        "policy",
        _phrases(
            """
            blocked | policy | access denied | not allowed | prohibited | denied | banned | filter | abuse | message
            refused
            """
        ),
    ),
)
