"""Take the pictures of README's day with okubsd: python tests/day.py, in a checkout whose `make run` has worked.

Real VMs on an X server of their own; the pictures go to doc/, and nothing else is left but images in out/day.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from Xlib import X
from Xlib import display as xdisplay

from okubsd.display.png import render_png

CHECKOUT = Path(__file__).resolve().parents[1]
STATE = CHECKOUT / "out/day"
DESCRIPTION = """
vms:
  browser: {image: firefox, memory: 2G, cpus: 2, home: 1G, color: red, boot_timeout: 600}
  mail: {image: term, color: green, home: 64M, keep: yes}
  papers: {image: evince, memory: 384M, color: yellow, network: none, home: 64M, boot_timeout: 300}
"""
RULES = "url * browser\nfile *.pdf papers\n"
PAGE = (
    "<!doctype html><title>Meeting on Tuesday</title><body style='font: 20px sans-serif; background: #f4f1ea; margin: 3em'>"
    "<h1>Meeting on Tuesday</h1><p>Room 4, at ten.  Bring the figures."
)


class Day:
    """A desktop, and okubsd called on it as a user does."""

    def __init__(self, tmp: Path) -> None:
        self.tmp, config = tmp, tmp / "config/okubsd"
        config.mkdir(parents=True)
        (config / "okubsd.yaml").write_text(DESCRIPTION)
        (config / "open.rules").write_text(RULES)
        read_end, write_end = os.pipe()
        argv = ["Xvfb", "-displayfd", str(write_end), "-noreset", "-nolisten", "tcp", "-screen", "0", "1440x900x24"]
        self.children = [subprocess.Popen(argv, pass_fds=(write_end,), stderr=subprocess.DEVNULL)]
        self.display = f":{os.read(read_end, 16).decode().strip()}"
        self.env = {**os.environ, "OKUBSD_STATE": str(STATE), "XDG_CONFIG_HOME": str(tmp / "config"),
                    "DISPLAY": self.display, "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp)}  # fmt: skip
        self.children.append(subprocess.Popen(["openbox"], env=self.env, stderr=subprocess.DEVNULL))
        self._do("xsetroot", "-solid", "#3b4a54")

    def _do(self, *argv: str) -> None:
        subprocess.run(argv, env=self.env, check=True)

    def okubsd(self, *words: str) -> None:
        self._do(sys.executable, "-m", "okubsd", *words)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "okubsd", *words], env=self.env, stdin=subprocess.DEVNULL)
        self.children.append(process)
        return process

    def picture(self, name: str) -> None:
        """Write what the desktop shows to doc/."""
        opened = xdisplay.Display(self.display)
        size = opened.screen().root.get_geometry()
        image = opened.screen().root.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF)
        (CHECKOUT / "doc" / name).write_bytes(render_png(size.width, size.height, image.data))
        opened.close()
        print(f"doc/{name}", flush=True)

    def place(self, title: str, x: int, y: int, width: int, height: int) -> None:
        """Put a window where the picture wants it."""
        found = ["xdotool", "search", "--name", title]
        number = subprocess.run(found, env=self.env, capture_output=True, text=True, check=True).stdout.split()[0]
        self._do("xdotool", "windowsize", number, str(width), str(height), "windowmove", number, str(x), str(y))
        time.sleep(3)

    def end(self) -> None:
        subprocess.run([sys.executable, "-m", "okubsd", "stop", "--all", "--force"], env=self.env, check=False)
        for child in reversed(self.children):
            child.kill()
            child.wait()


def wait(true: Callable[[], bool], seconds: float = 180) -> None:
    """Wait until ``true()``."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            sys.exit("the day stands still")
        time.sleep(1)


def asks(day: Day) -> bool:
    """Return whether a question is on the desktop."""
    found = subprocess.run(
        ["xdotool", "search", "--name", "okubsd asks"], env=day.env, capture_output=True, check=False
    )
    return found.stdout != b""


def morning(day: Day) -> None:
    """A browser and the mail; a link in a letter asks before it opens in the browser that runs."""
    (day.tmp / "page.html").write_text(PAGE)
    day.okubsd("start", "browser")
    day.okubsd("cp", str(day.tmp / "page.html"), "browser:")
    day.okubsd("run", "browser", "--", "busybox", "httpd", "-p", "127.0.0.1:8080", "-h", "/home/user")
    day.okubsd("start", "mail")
    day.place("mail. ", 740, 470, 660, 380)
    day.place("browser. ", 20, 20, 1100, 700)
    day.okubsd("type", "mail", "xdg-open http://localhost:8080/page.html")
    day.okubsd("key", "mail", "Return")
    wait(lambda: asks(day))
    time.sleep(2)
    day.picture("day-link.png")
    # Its answer is a key that nobody types by the way, after a moment in which nobody types.
    time.sleep(2)
    subprocess.run(["xdotool", "key", "ctrl+y"], env=day.env, check=True)
    time.sleep(15)


def noon(day: Day) -> None:
    """A paper of a stranger's, in a copy of a VM without a network, which is gone with its window."""
    paper = day.tmp / "invoice.pdf"
    paper.write_bytes((CHECKOUT / "images/evince/example.pdf").read_bytes())
    day.begin("open", str(paper))
    titles = ["xdotool", "search", "--name", "papers-1. invoice"]
    wait(lambda: subprocess.run(titles, env=day.env, capture_output=True, check=False).stdout != b"", 400)
    day.place("papers-1. invoice", 700, 200, 640, 560)
    time.sleep(5)
    day.picture("day-paper.png")


def main() -> int:
    """Take both pictures."""
    STATE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="okd-") as tmp:
        day = Day(Path(tmp))
        try:
            morning(day)
            noon(day)
        finally:
            day.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
