"""``make test-vagrant``: the Vagrantfile itself, run once through libvirt on a machine that has no virtualization to lend.

The box is built here (a public one cannot be fetched everywhere); network, daemons and libvirt's state are in namespaces of their own.
"""
