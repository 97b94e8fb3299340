"""A simulator of the programs of an OpenBSD host, for tests: one package under many names, over one state directory.

It speaks the messages and exit codes that were observed (tests/openbsd/corpus), and ends with 99 for anything that is
not documented there.  `vmctl start` really boots a QEMU cut down to vmd's machine; its rdomain is a network namespace,
in which the tap is and DHCP is answered.

**Its parsers are ours**: vm.conf(5), pf.conf(5) and dhcpd.conf(5) are read here by the grammars of okubsd itself.  So it
cannot prove that OpenBSD takes what okubsd writes, that pf does with a packet what okubsd thinks, that a queue limits,
that netstart(8) or rc(8) do in this order what they are thought to, or that vmd and vmm run a guest.  Only OpenBSD's
own programs can (okubsd(8), NOT YET TRIED; tests/openbsd/corpus has what they said).

Its programs are the children of a server (tests/openbsd/server.py), or run by themselves where there is none.

SIM_ROOT stands for /; SIM_USER is who calls.  Tests put faults into the state, by name.
"""
