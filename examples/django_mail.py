"""The settings that Django needs, and a mail sent with them."""

import os

from django.conf import settings
from django.core.mail import EmailMultiAlternatives

settings.configure(
    EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
    EMAIL_HOST=os.environ.get("SENDKIT_SMTP_HOST", "localhost"),
    EMAIL_PORT=int(os.environ.get("SENDKIT_SMTP_PORT", "2587")),
    EMAIL_USE_TLS=True,
    EMAIL_HOST_USER="sendkit",
    EMAIL_HOST_PASSWORD=os.environ["SENDKIT_API_KEY"],
)

message = EmailMultiAlternatives(
    "Hello from Django",
    "It works",
    os.environ.get("MAIL_FROM", "hello@example.com"),
    [os.environ.get("MAIL_TO", "you@example.com")],
)
message.attach_alternative("<p>It works</p>", "text/html")
message.send()
