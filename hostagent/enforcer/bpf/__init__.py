"""eBPF: a second, independent "no", and who connected. Without it the boundary holds; what is lost, ``hostagent status`` says.

Here live the bpf(2) calls, the compiler's one-shot process, what programs and enforcerd hand to each other, the installed
programs and the reader of their rings. The programs themselves are C, in the top folder ``bpf/``, whose README says how one is
added. ``calls`` is also used by the hand-written programs of ``enforcer/rules/backstop``.
"""
