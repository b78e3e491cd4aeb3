"""Sans-I/O codecs: bytes to messages and back, one module or package per protocol.

Lives here: framing, parsing, building, and the strictness of each protocol's grammar. May not live here: sockets, clocks,
randomness, files, what a message *means* (``hostagent.inspectors``) or whether it is allowed (``hostagent.policy``).
"""
