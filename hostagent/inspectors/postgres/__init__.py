"""PostgreSQL: from a connection's first byte to operations (``login``, then the session), and the cancel keys we mint.

Lives here: protocol state of one session and the protocol's own words for refusals. May not live here: policy, masking, I/O.
"""
