"""Translate VMs into OpenBSD's vmd(8): vm.conf(5), vmctl(8), qcow2 drives."""
