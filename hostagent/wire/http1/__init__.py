"""HTTP/1.1 (RFC 9110, RFC 9112), read strictly and written anew.

Lives here: heads, bodies, request targets. One way to read a message or none: whatever two readers could understand differently
is an error, and nothing is ever forwarded as it came. May not live here: what a request means, and what is done about it.
"""
