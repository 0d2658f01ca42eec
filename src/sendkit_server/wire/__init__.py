"""Bytes as the standards say: SMTP server and client, MIME, DKIM, return path. Sans-IO: no socket, no clock."""
