"""The packet path: rules as text, loading and owning them (nftables, or iptables where it must be), what stands behind them.

Nothing here knows a workload: leaves come in as names and numbers. Imports only the kernel's calls and the settings.
"""
