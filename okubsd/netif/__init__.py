"""Translate a VM's number into OpenBSD's interfaces: tap(4), lo(4), rdomain(4), hostname.if(5)."""
