"""Writes what happened into Postgres, and owns its schema."""
