"""Translate recipes into build steps, and built trees into drives."""
