"""What the submission server says, in one place: the contract's fixed texts and our own sentences."""

from __future__ import annotations

from sendkit_server.wire.reply import Reply

USER_PROMPT = Reply(334, "", "VXNlcm5hbWU6")  # base64 of `Username:`, as every client of AUTH LOGIN expects
SECRET_PROMPT = Reply(334, "", "UGFzc3dvcmQ6")  # `Password:`
GO_ON = Reply(334)
SEND_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")

OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
BYE = Reply(221, "2.0.0", "Bye")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")
CANNOT_VERIFY = Reply(252, "2.5.0", "Cannot verify the address; send to it and see")
HELP = Reply(214, "2.0.0", "Submission: EHLO, STARTTLS, AUTH with an API key as the password, MAIL, RCPT, DATA")

HELLO_FIRST = Reply(503, "5.5.1", "Send EHLO first")
TLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
AUTH_FIRST = Reply(530, "5.7.0", "Authentication required")
AUTHENTICATED_ALREADY = Reply(503, "5.5.1", "Already authenticated")
IN_TRANSACTION = Reply(503, "5.5.1", "Not during a mail transaction")
SENDER_KNOWN = Reply(503, "5.5.1", "The sender is already given")
MAIL_FIRST = Reply(503, "5.5.1", "Send MAIL first")
NO_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
CHUNKS_BEGUN = Reply(503, "5.5.1", "Go on with BDAT, or send RSET")

TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
NOT_SMTP = Reply(502, "5.7.0", "This is an SMTP server")
NOT_TLS = Reply(500, "5.5.2", "This port does not begin with TLS")
UNKNOWN = Reply(500, "5.5.2", "Command not recognized")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
AUTH_LINE_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
CONTROL_CHARACTER = Reply(500, "5.5.2", "A command holds no control characters")
NOT_UTF8 = Reply(500, "5.5.2", "A command is ASCII or UTF-8")
BARE_LINE_END = Reply(550, "5.5.2", "Bare <CR> or <LF> is not allowed")
HELLO_SYNTAX = Reply(501, "5.5.4", "Syntax: EHLO hostname")
NO_ARGUMENT = Reply(501, "5.5.4", "The command takes no argument")
CHUNK_SYNTAX = Reply(501, "5.5.4", "Syntax: BDAT size [LAST]")
AUTH_SYNTAX = Reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "The mechanisms are PLAIN and LOGIN")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_FAILED = Reply(535, "5.7.8", "Authentication failed")
TLS_ACTIVE = Reply(503, "5.5.1", "TLS is already active")
TLS_UNAVAILABLE = Reply(502, "5.5.1", "TLS is not available on this port")
EARLY_TLS_INPUT = Reply(554, "5.5.0", "Nothing may follow STARTTLS before the TLS handshake")
EARLY_TALKER = Reply(554, "5.5.0", "Wait for the greeting")
CANNOT_SEND = Reply(535, "5.7.8", "Authentication failed: this API key has no permission to send")
TOO_MANY_LOGINS = Reply(421, "4.7.0", "Too many failed logins, try again later")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections, try again later")
LOGIN_FAULT = Reply(454, "4.7.0", "Temporary authentication failure")
TLS_FAULT = Reply(454, "4.7.0", "TLS is not available right now")
TIMEOUT = Reply(421, "4.4.2", "Timeout")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down")
