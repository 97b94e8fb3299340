"""The main job: a real Firefox, from a cold state, showing a page that was copied in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import CHECKOUT
from tests.vm.world import World, share_of, wait_until

COLOR, OTHER = (18, 140, 84), (140, 18, 84)
PAGE = f"""<!doctype html><title>okubsd</title>
<style>body {{ background: rgb{COLOR}; margin: 0 }}</style>
"""


def test_firefox_shows_a_local_page(world: World, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "browser.png"
    page.write_text(PAGE)
    world.ok("image", "build", "firefox")
    world.ok("cp", str(page), "browser:")
    world.ok("start", "browser", "firefox", "--headless", "--", "/home/user/page.html")

    def shown() -> bool:
        world.ok("screenshot", "browser", str(picture))
        return share_of(picture, COLOR) > 0.6

    # The start ended when the page was painted: it is in the first picture.
    assert shown()
    # Hands of a script reach it, where nobody sees it.
    page.write_text(PAGE.replace(str(COLOR), str(OTHER)))
    world.ok("cp", str(page), "browser:other.html")

    def is_other() -> bool:
        # A busy browser gives its line for addresses the keyboard a while after it was asked to.
        world.ok("key", "browser", "Ctrl+L")
        time.sleep(3)
        world.ok("type", "browser", "/home/user/other.html")
        world.ok("key", "browser", "Return")
        time.sleep(3)
        world.ok("screenshot", "browser", str(picture))
        return share_of(picture, OTHER) > 0.6

    wait_until(is_other, 240)
    sizes = {row["name"]: row["size_bytes"] for row in json.loads(world.ok("image", "ls", "--json"))["images"]}
    assert sizes["base"] <= 60e6 and sizes["term"] <= 6e6 and sizes["firefox"] <= 170e6
    # The browser's own sandbox needs user namespaces, and gets them.
    assert world.call("run", "browser", "--", "unshare", "--user", "true").code == 0


def test_the_examples_of_the_manual_do_what_they_say(world: World, desktop: str, tmp_path: Path) -> None:
    text = (CHECKOUT / "man/okubsd.1").read_text().split(".Sh EXAMPLES")[1].split(".Sh ")[0]
    lines = re.findall(r"\$ (okubsd .*)", text)
    assert [line.split()[1] for line in lines] == ["start", "start", "cp", "start", "run", "stop"]
    world.ok("image", "build", "firefox")
    command = tmp_path / "bin/okubsd"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m okubsd "$@"\n')
    command.chmod(0o755)
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "suspicious.txt").write_text("a\nb\nc\n")
    env = {**world.env, "DISPLAY": desktop, "PATH": f"{command.parent}:{world.env['PATH']}"}
    said = []
    for line in lines:
        done = subprocess.run(["sh", "-c", line], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        said.append(done.stdout.strip())
    assert "qemu-system-x86_64" in said[1] or "/usr/lib/okubsd/app firefox" in said[1]
    assert said[4] == "3"
    world.assert_nothing_left()
