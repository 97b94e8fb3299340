"""Translate a VM's display into X servers and pictures."""
