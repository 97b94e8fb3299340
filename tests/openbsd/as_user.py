"""okubsd as an ordinary user of the simulated host: whoever runs the tests, it does not take itself for root."""

import sys

from okubsd.cli.main import call
from okubsd.host import facts

facts.is_root = lambda: False
sys.exit(call(sys.argv[1:]))
