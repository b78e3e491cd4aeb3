"""What a program is started under: its view of the files, its environment, its user, what it may call, and the start itself.

Runs partly in the child between fork and exec: nothing here logs, records or talks to the proxy.
"""
