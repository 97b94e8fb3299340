"""Entries of the desktop's menus for programs in VMs (Desktop Entry Specification 1.5)."""
