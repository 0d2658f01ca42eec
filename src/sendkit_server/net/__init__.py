"""The only way out: resolver, address guard on the connected address, TLS contexts, connections."""
