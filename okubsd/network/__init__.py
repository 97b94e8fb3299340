"""Translate a VM's network into netdev options, namespaces and addresses."""
