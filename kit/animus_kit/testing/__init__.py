"""Fixtures over the real things: PostgreSQL, mTLS on loopback. tests/conftest.py re-exports `fixtures`."""
