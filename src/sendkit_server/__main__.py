"""`python -m sendkit_server` is `sendkit`."""

from sendkit_server.cli import main

main()
