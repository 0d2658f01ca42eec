"""Sends a mail by SMTP over verified STARTTLS with nothing but the standard library."""

import os
import smtplib
import ssl
from email.message import EmailMessage

message = EmailMessage()
message["From"] = os.environ.get("MAIL_FROM", "hello@example.com")
message["To"] = os.environ.get("MAIL_TO", "you@example.com")
message["Subject"] = "Hello from smtplib"
message.set_content("It works")
message.add_alternative("<p>It works</p>", subtype="html")

host = os.environ.get("SENDKIT_SMTP_HOST", "localhost")
with smtplib.SMTP(host, int(os.environ.get("SENDKIT_SMTP_PORT", "2587"))) as client:
    client.starttls(context=ssl.create_default_context())
    client.login("sendkit", os.environ["SENDKIT_API_KEY"])
    client.send_message(message)
