"""Stores mails and completes them, and says the id of each as it is acknowledged: the program that loses its power."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from store_mails import completion, new_mail, owned_job

from sendkit_server.model.mail import PartsContent
from sendkit_server.store.sqlite import engine
from sendkit_server.store.store import Store, open_store

TOGETHER = 6


async def work(store: Store, mails: int) -> None:
    """Several at a time, so that commits are shared; the bodies do not shrink, so that the WAL fills quickly."""

    async def one() -> None:
        mail = new_mail(
            store.owner, "a@one.test", "b@one.test", content=PartsContent("s", None, os.urandom(1500).hex())
        )
        await store.accept(mail)
        os.write(1, f"{mail.messages[0].message.id}\n".encode())
        await store.complete(completion(owned_job(mail)))

    for _ in range(mails // TOGETHER):
        await asyncio.gather(*(one() for _ in range(TOGETHER)))


def main() -> None:
    """Arguments: the data directory, how many mails, and after how many pages the WAL is written back."""
    folder, mails, pages = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    engine.CHECKPOINT_PAGES = pages
    store = open_store(folder, "secret", "worker")
    store.start(1_000)
    asyncio.run(work(store, mails))
    os._exit(0)  # as if the power went: nothing is closed


if __name__ == "__main__":
    main()
