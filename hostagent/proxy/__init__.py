"""The asyncio rim of ``proxyd``: listeners, sessions, TLS, DNS, approvals, keys, control socket.

Sockets, clocks and tasks live here and nowhere below. The rim decides nothing: it feeds bytes to ``gate``, carries out the
commands that come back, and appends every record before it forwards anything. It never touches nft, cgroups or BPF
(``enforcer`` does) and never opens DuckDB (``recording`` does).
"""
