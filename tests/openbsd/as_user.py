"""okubsd as an ordinary user of the simulated host: whoever runs the tests, it does not take itself for root."""

import sys

from okubsd.host import trust

# Before anybody else has it by name.
trust.is_root = lambda: False

from okubsd.cli.main import call  # noqa: E402

sys.exit(call(sys.argv[1:]))
