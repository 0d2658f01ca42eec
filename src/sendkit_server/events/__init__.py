"""What happened, recorded once: a try's consequence for statuses, events and counters."""

from sendkit_server.events.attempts import completion, handed_back

__all__ = ["completion", "handed_back"]
