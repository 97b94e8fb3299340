"""okubsd on a host whose APT sources have one archive more, below the directory $ARCHIVE: nobody has signed it."""

import os
import sys

from okubsd.host import release

_of_host = release.sources_of


def sources_of(recipe):  # type: ignore[no-untyped-def]
    suite, text = _of_host(recipe)
    where = f"URIs: copy:{os.environ['ARCHIVE']}\nSuites: {suite}-security\nComponents: main\nTrusted: yes\n"
    return suite, f"{text}\nTypes: deb\n{where}"


release.sources_of = sources_of

if __name__ == "__main__":
    from okubsd.cli.main import call

    sys.exit(call(sys.argv[1:]))
