"""okubsd: run every big, risky program in its own light Linux VM."""

__version__ = "0.1.0"
