"""A user's display and a VM's own, with the glass between them, and no VM: what a test of windows needs."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from Xlib import Xatom

from okubsd import layout
from okubsd.display.orders import Orders
from okubsd.display.server import keyboard_argv
from okubsd.guest.identity import FAMILY_LOCAL, render_xauthority
from okubsd.host import windows
from okubsd.host.glass.hearing import _QUIET_SECONDS
from tests.conftest import CHECKOUT

SIZE = (1400, 900)
COLOR, INK = 0x27AE60, 0xFFFFFF


# No number is given twice: a glass whose desktop was ended would go on on that of another test, which takes the first
# free number, as servers that choose for themselves do.
NUMBERS = itertools.count(random.SystemRandom().randrange(1000, 50_000))


def serve(*options: str, size: tuple[int, int] = SIZE, depth: int = 24) -> tuple[subprocess.Popen[bytes], int]:
    """Start an X server without a screen that anybody sees; return it and its display number."""
    while True:
        server, said = _serve(next(NUMBERS), options, size, depth)
        if said.endswith(b"\n"):
            atexit.register(_sweep, int(said))
            return server, int(said)
        # Somebody else has that number.
        server.wait()


def _sweep(number: int) -> None:
    """Take away what a server leaves that was killed."""
    for path in (Path(f"/tmp/.X{number}-lock"), Path(f"/tmp/.X11-unix/X{number}")):
        path.unlink(missing_ok=True)


def _serve(
    number: int, options: tuple[str, ...], size: tuple[int, int], depth: int
) -> tuple[subprocess.Popen[bytes], bytes]:
    """Start a server as display ``number``; return it, and the number that it says once it listens, or else b""."""
    read_end, write_end = os.pipe()
    argv = [
        "Xvfb",
        f":{number}",
        "-displayfd",
        str(write_end),
        "-nolisten",
        "tcp",
        "-screen",
        "0",
        f"{size[0]}x{size[1]}x{depth}",
        *options,
    ]
    server = subprocess.Popen(argv, pass_fds=(write_end,), stderr=subprocess.DEVNULL)
    os.close(write_end)
    said = b""
    while not said.endswith(b"\n") and (part := os.read(read_end, 16)):
        said += part
    os.close(read_end)
    return server, said


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until ``true()`` and return what it says; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not (said := true()):
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.03)
    return said


class Bed:
    """Two displays and the glass."""

    def __init__(
        self, tmp: Path, manager: str, *, expecting: bool = True, options: tuple[str, ...] = (), resources: str = "",
        program: str = "", **orders: Any,
    ) -> None:  # fmt: skip
        self.orders = orders
        self.glass_program = (program,) if program else ("-m", "okubsd.host.glass")
        self.run = tmp / "run"
        self.run.mkdir(mode=0o700)
        self.host, number = serve("-noreset")
        self.desktop = f":{number}"
        self.children: list[subprocess.Popen[Any]] = [self.host]
        if resources:
            with self.desk() as opened:
                opened.screen().root.change_property(Xatom.RESOURCE_MANAGER, Xatom.STRING, 8, resources.encode())
                opened.sync()
        if manager != "none":
            env = {**os.environ, "DISPLAY": self.desktop, "HOME": str(tmp)}
            config = tmp / "i3"
            config.write_text(
                '# i3 config file (v4)\nfor_window [class=".*"] floating enable\nfont pango:monospace 8\n'
            )
            argv = [manager, "-c", str(config)] if manager == "i3" else [manager]
            self.children.append(subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self.cookie = secrets.token_bytes(16)
        (self.run / layout.COOKIE).write_bytes(self.cookie)
        self.lives = {name: self._live(name) for name in (layout.DISPLAY_LIFE, layout.QEMU_LIFE)}
        self._nest(options)
        self.log = tmp / "glass.log"
        self.crossed = tmp / "crossed"
        self.program = tmp / "okubsd"
        self.program.write_text(f'#!/bin/sh\necho "$@" >>{self.crossed}\necho "{"x" * 10} copied"\n')
        self.program.chmod(0o755)
        self.glass = self.begin()
        until(lambda: windows.is_ready(self.run))
        if expecting:
            # As a start does: a window that comes is what the user wants.
            windows.say(self.run, "starting")

    def _live(self, name: str) -> IO[str]:
        stream = (self.run / name).open("w")
        fcntl.flock(stream, fcntl.LOCK_EX)
        return stream

    def _nest(self, options: tuple[str, ...]) -> None:
        # The server reads its cookie when it begins, before anybody knows its number: any number will do there.
        path = self.run / layout.XAUTHORITY
        path.write_bytes(render_xauthority(self.cookie, FAMILY_LOCAL, socket.gethostname(), "0"))
        self.nested, self.number = serve("-auth", str(path), *options)
        path.write_bytes(render_xauthority(self.cookie, FAMILY_LOCAL, socket.gethostname(), str(self.number)))
        self.children.append(self.nested)
        (self.run / layout.DISPLAY).write_text(f"{self.number}\n")

    def begin(self) -> subprocess.Popen[bytes]:
        """Start the glass."""
        orders = Orders(vm="work", run=str(self.run), desktop=self.desktop, network="nat", color=COLOR, ink=INK,
                        okubsd=(str(self.program),),
                        keyboard=keyboard_argv(self.desktop, self.run / layout.XAUTHORITY, f":{self.number}"),
                        **self.orders)  # fmt: skip
        argv = [sys.executable, *self.glass_program, orders.render()]
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        with self.log.open("ab") as log:
            glass = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
        self.children.append(glass)
        return glass

    def halves(self) -> list[int]:
        """Return the pids of both halves."""
        path = Path(f"/proc/{self.glass.pid}/task/{self.glass.pid}/children")
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    def rows(self) -> dict[str, windows.WindowRow]:
        """Return the windows on the desktop, by what they are of."""
        return {row.app: row for row in windows.windows_of(self.run)}

    def wait_for(self, app: str) -> windows.WindowRow:
        """Wait until a window of ``app`` is painted on the desktop, and stays where it is."""

        def still() -> windows.WindowRow | None:
            row = self.rows().get(app)
            time.sleep(0.2)
            return row if row is not None and row.painted and row == self.rows().get(app) else None

        return until(still)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def desk(self) -> Iterator[Any]:
        """Look at the user's display."""
        from Xlib import display as xdisplay

        opened = xdisplay.Display(self.desktop)
        try:
            yield opened
        finally:
            opened.close()

    def color(self, x: int, y: int) -> int:
        """Return the color of a pixel of the user's display."""
        from Xlib import X

        with self.desk() as opened:
            data = opened.screen().root.get_image(x, y, 1, 1, X.ZPixmap, 0xFFFFFFFF).data
        return int.from_bytes(data[:3], "little")

    def xdotool(self, *words: str) -> str:
        """Do as a user does."""
        env = {**os.environ, "DISPLAY": self.desktop}
        done = subprocess.run(["xdotool", *words], env=env, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip()

    def frame(self, title: str) -> str:
        """Return the id of the window of the desktop that has ``title`` in its name."""
        return until(lambda: self.xdotool("search", "--name", title).split("\n")[0])  # type: ignore[no-any-return]

    def take_keyboard(self, app: str) -> None:
        """Give the keyboard to the window of ``app``, as a user does who types nowhere else."""
        time.sleep(_QUIET_SECONDS + 0.1)
        self.xdotool("windowfocus", self.frame(f"work. {app.lower()}"))
        until(lambda: self.rows()[app].focused)

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End everything."""
        for child in reversed(self.children):
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()
        for stream in self.lives.values():
            stream.close()


class Client:
    """Programs of the guest on the nested display."""

    def __init__(self, bed: Bed) -> None:
        env = {**os.environ, "XAUTHORITY": str(bed.run / layout.XAUTHORITY), "PYTHONPATH": str(CHECKOUT)}
        argv = [sys.executable, str(CHECKOUT / "tests/glass_guest.py"), f":{bed.number}"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=env, text=True, bufsize=1)
        bed.children.append(self._process)
        self.said: list[str] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._wait("ready")

    def _wait(self, word: str) -> None:
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline().strip()) != word:
            assert line, "the guest's programs ended"
            self.said.append(line)

    def do(self, *words: object) -> list[str]:
        """Have a command done; return what happened to windows until then."""
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        self._wait("done")
        said, self.said = self.said, []
        for line in said:
            if line.startswith("place "):
                _, name, width, height = line.split()
                self._places[name] = int(width), int(height)
        return said

    def place(self, name: str) -> tuple[int, int]:
        """Return the size that a window was told last that it has."""
        self.do("nothing")
        return self._places.get(name, (0, 0))

    def held(self) -> set[int]:
        """Return the keys that are down on the nested display."""
        (line,) = [one for one in self.do("held") if one.startswith("held")]
        return {int(word) for word in line.split()[1:]}

    def wait_to_hear(self, line: str) -> str:
        """Wait until something is said that begins with ``line``, and return it."""
        found: list[str] = []

        def heard() -> bool:
            found.extend(one for one in self.do("nothing") if one.startswith(line))
            return bool(found)

        until(heard)
        return found[-1]
