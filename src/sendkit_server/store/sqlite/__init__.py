"""SQLite: one file in WAL mode, one process, one writing connection."""
