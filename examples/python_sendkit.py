"""Sends a mail with the `sendkit` package and prints its id."""

import os

from sendkit import SendKit

client = SendKit(os.environ["SENDKIT_API_KEY"], base_url=os.environ.get("SENDKIT_BASE_URL", "http://127.0.0.1:8080"))
sent = client.emails.send(
    from_=os.environ.get("MAIL_FROM", "hello@example.com"),
    to=os.environ.get("MAIL_TO", "you@example.com"),
    subject="Hello from Python",
    text="It works",
    html="<p>It works</p>",
)
print(sent["id"])
