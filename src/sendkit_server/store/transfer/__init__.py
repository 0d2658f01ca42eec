"""Carrying a whole installation: backup, restore, export, and the way from SQLite to PostgreSQL.

`tables` says what is carried and in which form rows are compared; `sqlite` and `postgres` read and write them, each
engine its own way; `archive` is the file of a backup; `backup`, `restore`, `migration` and `export` are the four
commands' work. `marks` are the notes in `meta` that keep a server from starting on a database that is not its own to
serve: one that is still being filled, or one that has moved away.
"""
