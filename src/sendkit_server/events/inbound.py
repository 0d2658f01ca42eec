"""Everything that the inbound door takes: what came back to a return path, and receivers' reports."""

from __future__ import annotations

from collections.abc import Sequence

from sendkit_server.events.bounces import Returns, Taken
from sendkit_server.events.reports import LOCAL_PARTS, Reports


class Inbound:
    """Tells by the local part what a mail is."""

    def __init__(self, returns: Returns, reports: Reports) -> None:
        self._returns = returns
        self._reports = reports

    def takes(self, local: str) -> bool:
        """Whether mail to this local part is for us, at whatever domain."""
        return local.lower() in LOCAL_PARTS or self._returns.token_of(local) is not None

    async def take(self, locals_: Sequence[str], raw: bytes) -> Taken:
        """Records a mail that came to these local parts; durable once it returns. FORGED: none of them is ours."""
        others = [local for local in locals_ if local.lower() not in LOCAL_PARTS]
        if len(others) == len(locals_):
            return await self._returns.take(locals_, raw)
        result = await self._reports.take(raw)
        # Whoever writes to both at once has to come again when either could not be recorded.
        if others and result.is_final:
            return await self._returns.take(others, raw)
        return result
