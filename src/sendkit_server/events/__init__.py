"""What happened, recorded once: a try's consequence for statuses, events and counters."""

from sendkit_server.events.attempts import completion, handed_back, suppressed_at_accept, suppressed_meanwhile

__all__ = ["completion", "handed_back", "suppressed_at_accept", "suppressed_meanwhile"]
