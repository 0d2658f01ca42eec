"""The only way out: names to addresses, addresses that may be connected to, connections and their TLS."""
