"""The files of a mirror: a directory or a static web server, which may lie, stall, or never come to an end.

What comes is compared by whoever asked for it.  A part is fetched until it is what was signed, from where an
earlier try broke off.  Source of the range requests: RFC 9110, section 14.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit

from okubsd.config.names import quoted
from okubsd.errors import Misuse, Problem
from okubsd.host import store
from okubsd.host.reading import open_regular
from okubsd.images.archive import LARGEST, magic_mistake
from okubsd.model import Image, Part

Report = Callable[[str], None]

# The directory of the parts, each by its digest.
PARTS = "parts"
# A connection may say nothing for so many seconds, and so many without anything useful; a part has to come at so
# many bytes a second, looked at so often.
_SILENT, _USEFUL_SECONDS, _LEAST_RATE, _RATE_SECONDS = 30.0, 60.0, 2048, 60.0
_CHUNK = 1 << 20
# How often what is fetched is told, in bytes.
_TOLD = 32 << 20


def fetch(sources: tuple[str, ...], part: Part, target: Path, image: Image, report: Report) -> None:
    """Have a part at ``target``, going on where an earlier try broke off.  Raises Problem where nobody has it whole."""
    why = ""

    def tell(done: int) -> None:
        report(f"{image.name}: {done >> 20} of {part.size >> 20} MB")

    for source in sources:
        # What is there may be another's lie: who is to blame is known where all of it is from one source.
        for begun in _beginnings(target):
            try:
                _fetch_from(source, part, target, tell)
            except OSError as error:
                why = f"{source}: {error}"
                break
            if _is_signed(part, target):
                return
            # Whatever it is, it is not what was signed.
            target.unlink()
            why = f"{source}: {part.name} is not what was signed" if not begun else why
    raise Problem(f"image '{image.name}' was not pulled: {why}", "try again: what was fetched stays")


def _beginnings(target: Path) -> Iterator[int]:
    """Yield how many bytes are there already, and once more from none where there were some."""
    begun = target.stat().st_size if target.exists() else 0
    yield begun
    if begun:
        yield 0


def _is_signed(part: Part, target: Path) -> bool:
    with target.open("rb") as stream:
        wrong = magic_mistake(part.name, stream.read(512))
    return store.hash_file(target) == part.sha256 and not wrong


class _Rate:
    """Who gives less than so many bytes a second, in whatever pieces, is waited for no longer."""

    def __init__(self) -> None:
        self._since, self._came = time.monotonic(), 0
        self.watch: _Watch | None = None

    def came(self, count: int) -> None:
        """Take that ``count`` bytes came.  Raises OSError where they come too slowly."""
        self._came += count
        if self.watch is not None:
            self.watch.went_on()
        if time.monotonic() > self._since + _RATE_SECONDS:
            if self._came < _LEAST_RATE * _RATE_SECONDS:
                raise OSError("is too slow")
            self._since, self._came = time.monotonic(), 0


def _fetch_from(source: str, part: Part, target: Path, tell: Callable[[int], None]) -> None:
    if part.size > LARGEST[part.name]:
        raise OSError("it is too large")
    done = target.stat().st_size if target.exists() else 0
    if done > part.size:
        target.unlink()
        done = 0
    told, rate = done, _Rate()
    while done < part.size:
        with opened(source, f"{PARTS}/{part.sha256}", done, rate) as stream, target.open("ab") as out:
            before = done
            while done < part.size and (chunk := stream.read1(min(_CHUNK, part.size - done))):
                out.write(chunk)
                done += len(chunk)
                rate.came(len(chunk))
                if done - told >= _TOLD:
                    told = done
                    tell(done)
        if done == before:
            raise OSError(f"it ends after {done} of {part.size} bytes")


class _Watch:
    """Cuts the connections to a server where nothing useful came of them for too long, in whatever pieces it comes."""

    def __init__(self) -> None:
        self.late = False
        self._sockets: list[socket.socket] = []
        self._until = time.monotonic() + _USEFUL_SECONDS
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def connect(self, *args: Any) -> socket.socket:
        """Connect as socket.create_connection() does, and watch that."""
        made = socket.create_connection(*args)
        self._sockets.append(made)
        return made

    def add(self, connection: socket.socket) -> None:
        """Watch what TLS has made of a connection."""
        self._sockets.append(connection)

    def went_on(self) -> None:
        """Take that something useful came."""
        self._until = time.monotonic() + _USEFUL_SECONDS

    def _look(self) -> None:
        while not self._over.wait(max(0.0, self._until - time.monotonic())):
            if time.monotonic() >= self._until:
                self.late = True
                for connection in self._sockets:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                return


class _Web(urllib.request.HTTPHandler):
    """Asks a server by HTTP."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            made = http.client.HTTPConnection(host, **options)
            made._create_connection = self._watch.connect  # type: ignore[attr-defined]
            return made

        return self.do_open(connection, request)


class _SafeWeb(urllib.request.HTTPSHandler):
    """Asks a server by HTTPS; certificates are verified as ever."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        watch = self._watch

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                watch.add(self.sock)

        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            made = Connection(host, **options)
            made._create_connection = watch.connect  # type: ignore[attr-defined]
            return made

        return self.do_open(connection, request)


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Goes where an answer leads, and reads nothing of what that answer says besides."""

    def redirect_request(self, request: Any, answer: Any, *rest: Any) -> urllib.request.Request | None:
        answer.close()
        return super().redirect_request(request, answer, *rest)


@contextlib.contextmanager
def opened(source: str, name: str, offset: int, rate: _Rate | None = None) -> Iterator[Any]:
    """Open the file ``name`` of a source at ``offset``.  Raises OSError, in words, where that fails."""
    if not is_url(source):
        with open_regular(Path(source) / name) as stream:
            stream.seek(offset)
            yield stream
        return
    request = urllib.request.Request(
        f"{source.rstrip('/')}/{name}", headers={"Range": f"bytes={offset}-"} if offset else {}
    )
    rate = rate or _Rate()
    rate.watch = watch = _Watch()
    opener = urllib.request.build_opener(_Web(watch), _SafeWeb(watch), _Redirect())
    try:
        with watch, opener.open(request, timeout=_SILENT) as answer:
            if watch.late:
                raise TimeoutError("its answer does not begin")
            if urlsplit(answer.url).scheme not in ("http", "https"):
                raise OSError("it leads elsewhere")
            if offset and answer.status != 206:
                # It begins at the beginning: what is here is passed over.
                _skip(answer, offset, rate)
            yield answer
    except urllib.error.HTTPError as error:
        raise OSError(f"has no {name}: {error.code}") from None
    except urllib.error.URLError as error:
        raise OSError(f"does not answer: {error.reason}") from None
    except (TimeoutError, ConnectionError) as error:
        raise OSError(f"stopped answering: {error}") from None
    except http.client.HTTPException as error:
        raise OSError(f"does not answer as a web server does: {type(error).__name__}") from None


def _skip(stream: IO[bytes], count: int, rate: _Rate) -> None:
    while count and (chunk := stream.read1(min(_CHUNK, count))):  # type: ignore[attr-defined]
        count -= len(chunk)
        rate.came(len(chunk))


def is_url(source: str) -> bool:
    """Return whether ``source`` is on a web server.  Raises Misuse where it is a URL of another kind."""
    scheme = urlsplit(source).scheme
    if "://" in source and scheme not in ("http", "https"):
        raise Misuse(f"{quoted(source)} is neither a directory nor of http or https")
    return "://" in source
