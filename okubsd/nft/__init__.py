"""Translate a VM's rules into nftables, for a gateway VM and for a network namespace."""
