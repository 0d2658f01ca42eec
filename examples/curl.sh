#!/bin/sh
# Sends a mail with one HTTP request and prints the reply.
set -eu
curl --fail-with-body --silent --show-error "${SENDKIT_BASE_URL:-http://127.0.0.1:8080}/emails" \
    -H "Authorization: Bearer $SENDKIT_API_KEY" -H 'Content-Type: application/json' \
    -d "{\"from\": \"${MAIL_FROM:-hello@example.com}\", \"to\": \"${MAIL_TO:-you@example.com}\",
         \"subject\": \"Hello from curl\", \"text\": \"It works\", \"html\": \"<p>It works</p>\"}"
