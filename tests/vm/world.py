"""A user's world for real VMs: a description, a state directory, and okubsd called as a user calls it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from okubsd.host import window
from okubsd.host.places import find_places
from tests.conftest import CHECKOUT

DESCRIPTION = """
defaults: {display: 800x600, memory: 160M, home: 64M}
vms:
  term: {image: term}
  kept: {image: term, keep: yes, boot_timeout: 90}
  spy: {image: spy, network: nat, keep: yes}
  shut: {image: spy, network: none, keep: yes}
  gone: {image: term, disposable: yes}
  hasty: {image: term, boot_timeout: 8}
  small: {image: term, home: 32M, keep: yes}
  vault: {image: term, network: none}
  browser: {image: firefox, memory: 2G, cpus: 2, display: 1024x768, home: 1G, boot_timeout: 600}
"""

# What an intruder would try with.
SPY = """
from: base
packages: [xterm, x11-utils, x11-apps, xdotool, xinput, xclip, netcat-openbsd]
apps:
  term: [xterm]
"""


class World:
    """okubsd in a world of its own; images are kept between runs of the tests, VMs are not."""

    def __init__(self, top: Path, tmp: Path) -> None:
        self.state = top / "state"
        self.config = tmp / "config"
        self.run_base = top / "state/run"
        spy = self.config / "okubsd/images/spy"
        spy.mkdir(parents=True)
        (spy / "recipe.yaml").write_text(SPY)
        self.description = self.config / "okubsd/okubsd.yaml"
        self.description.write_text(DESCRIPTION)
        names = ("DISPLAY", "OKUBSD_CONFIG", "XAUTHORITY", "LANG", "LC_ALL", "LC_MESSAGES")
        self.env = {key: value for key, value in os.environ.items() if key not in names}
        self.env |= {
            "OKUBSD_STATE": str(self.state),
            "XDG_CONFIG_HOME": str(self.config),
            "PYTHONPATH": str(CHECKOUT),
        }

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "okubsd", *args]

    def call(self, *args: str, data: bytes = b"", timeout: float = 900, env: dict[str, str] | None = None) -> Done:
        done = subprocess.run(
            self.argv(*args),
            input=data,
            capture_output=True,
            timeout=timeout,
            env={**self.env, **(env or {})},
            check=False,
        )
        return Done(done)

    def ok(self, *args: str, data: bytes = b"", env: dict[str, str] | None = None) -> str:
        done = self.call(*args, data=data, env=env)
        assert done.code == 0, (args, done.code, done.out, done.err)
        return done.out

    def begin(self, *args: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.argv(*args), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self.env)

    def status(self, vm: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", vm, "--json"))
        return found

    def running(self, vm: str) -> bool:
        return bool(self.status(vm)["state"] == "running")

    def processes(self) -> list[tuple[int, str]]:
        """Return (pid, command line) of everything that belongs to this world's VMs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = str(self.state) in words or str(self.run_base) in words
                if ours and re.match(
                    r"\S*(python\S* -P -m okubsd.host.glass|qemu|Xephyr|Xvfb|ssh|unshare|nsenter|mmdebstrap|perl|mksquashfs)",
                    words,
                ):
                    found.append((int(path.parent.name), words))
        return found + self.unnamed()

    def unnamed(self) -> list[tuple[int, str]]:
        """Return what of this world names no directory, but has our environment: uplinks, and what hears guests."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                ours = f"OKUBSD_STATE={self.state}".encode() in (path.parent / "environ").read_bytes()
                hears = {b"okubsd.host.attending", b"okubsd.host.microphone", b"okubsd.host.sharing"} & {*words}
                if (words[0].endswith(b"slirp4netns") or hears) and ours:
                    found.append((int(path.parent.name), b" ".join(words).decode()))
        return found

    def run_dir(self, vm: str) -> Path:
        """Return the directory of the VM's sockets."""
        return find_places(self.env).vm_run(vm)

    def qemus(self, vm: str) -> list[int]:
        return [pid for pid, words in self.processes() if "qemu-system" in words and f"guest={vm} " in words]

    def assert_nothing_left(self, seconds: float = 15) -> None:
        """Assert that no process and no socket of any VM is left, after what is ending had time to end."""
        end = time.monotonic() + seconds
        while self.processes() and time.monotonic() < end:
            time.sleep(0.1)
        processes = self.processes()
        assert not processes, processes
        left = [path for path in self.run_base.rglob("*") if path.is_socket()]
        assert left == []
        assert list(self.state.glob("vms/*/home.new")) == []
        assert str(self.state) not in Path("/proc/mounts").read_text()
        assert list(self.state.glob("images/.making-*")) == []

    def end_all(self) -> None:
        """Stop every VM of this world, however it is."""
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.call("stop", "--all", "--force")

    @contextlib.contextmanager
    def up(self, vm: str, *args: str, env: dict[str, str] | None = None) -> Iterator[None]:
        """Have ``vm`` running for the block."""
        self.ok("start", vm, *(args or ("--no-app",)), env=env)
        try:
            yield
        finally:
            self.call("stop", vm)


@contextlib.contextmanager
def client_of(number: int, cookie: bytes) -> Iterator[Any]:
    """Be a client of a VM's display, as its guest is."""
    from Xlib import display as xdisplay

    with window.authority(number, cookie):
        opened = xdisplay.Display(f":{number}")
    try:
        yield opened
    finally:
        with contextlib.suppress(Exception):
            opened.close()


class Done:
    """A finished call: its exit code, and what it printed as text."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.raw = done.stdout
        self.out = done.stdout.decode(errors="replace")
        self.err = done.stderr.decode(errors="replace")


def wait_until(true: Any, seconds: float = 30) -> None:
    """Wait until ``true()``; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.1)


def read_png(path: Path) -> tuple[int, int, bytes]:
    """Return width, height and RGB bytes of a PNG of ours: 8 bits, no filter."""
    import struct
    import zlib

    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    length = struct.unpack(">I", data[start - 4 : start])[0]
    rows = zlib.decompress(data[start + 4 : start + 4 + length])
    stride = width * 3 + 1
    return width, height, b"".join(rows[y * stride + 1 : (y + 1) * stride] for y in range(height))


def share_of(path: Path, color: tuple[int, int, int]) -> float:
    """Return which part of a picture's pixels has just this ``color``."""
    width, height, rgb = read_png(path)
    pixels = [rgb[i : i + 3] for i in range(0, len(rgb), 3)]
    return pixels.count(bytes(color)) / (width * height)
