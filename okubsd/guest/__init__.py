"""Translate what the host says to a guest: identity, settings, ssh."""
