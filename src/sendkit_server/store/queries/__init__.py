"""Questions and management writes that both engines answer with the same SQLAlchemy Core."""
