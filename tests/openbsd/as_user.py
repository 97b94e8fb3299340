"""okubsd as an ordinary user of the simulated host: whoever runs the tests, it does not take itself for root."""

import sys

from okubsd.host import trust

AS_ROOT = trust.is_root
for module in tuple(sys.modules.values()):
    # Also where somebody else has it by name.
    if getattr(module, "is_root", None) is AS_ROOT:
        module.is_root = lambda: False  # type: ignore[attr-defined]

from okubsd.cli.main import call  # noqa: E402

sys.exit(call(sys.argv[1:]))
