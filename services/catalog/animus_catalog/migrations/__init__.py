"""Alembic revisions of the schema `catalog`. A released one never changes."""
