"""PostgreSQL 15+: one database, any number of processes on any number of machines, each with one writing connection."""
