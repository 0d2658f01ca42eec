"""What is administered: one function per action; API, dashboard and CLI call it and only word the answer."""
