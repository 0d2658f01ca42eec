"""The SMTP door: submission with an API key as the password. Speaks the protocol, decides nothing about mail."""
