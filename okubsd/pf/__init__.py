"""Translate networks into OpenBSD's pf(4): pf.conf(5) text, its grammar, and what it decides of a packet."""
