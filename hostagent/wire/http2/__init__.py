"""HTTP/2 (RFC 9113): frames counted before the ``h2`` library sees them, one end of a connection, and fields read strictly.

``h2`` and ``hpack`` keep the protocol's states, windows and compression. Lives here: limits on what a peer may make us do, and the
form of heads, which becomes the one that HTTP/1.1 has, so that both are judged alike. May not live here: what a request means.
"""
