"""Be the program that the first argument names."""

import importlib
import sys

from .install import PROGRAMS

name = sys.argv[1]
getattr(importlib.import_module(f".{PROGRAMS[name]}", __package__), name.strip("_").replace("-system-x86_64", ""))(
    sys.argv[2:]
)
