"""Translate a VM into QEMU's words: its command line, its monitor, its probe."""
