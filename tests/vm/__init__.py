"""The boundary on another kernel: Debian's own, in a plain virtual machine with systemd. ``python -m tests.vm``."""
