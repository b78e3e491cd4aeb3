"""The regression lane: PostgreSQL's own suite through the whole service, compared with a direct run. ``python -m tests.regress``."""
