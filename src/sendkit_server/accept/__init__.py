"""A submission becomes stored messages, or one refusal; the same for every door."""

from sendkit_server.accept.acceptor import Acceptor, AcceptSettings, Handover

__all__ = ["AcceptSettings", "Acceptor", "Handover"]
