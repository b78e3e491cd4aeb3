"""The demo: one governed PostgreSQL session, told step by step (``make demo``)."""
