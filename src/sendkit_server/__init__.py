"""Sendkit server."""
