"""Messages to operations: what each protocol's bytes mean, and what its own denial, notice and fatal error look like.

One module or package per *meaning*. Lives here: protocol state, which answer belongs to which statement, what must be sent
so that a refusal looks like the server's own. May not live here: policy, masking rules, records, time limits, I/O: the gate
provides those through the small ports of ``hostagent.inspectors.ports``.
"""
