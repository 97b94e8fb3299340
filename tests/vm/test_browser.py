"""The main job: a real Firefox, from a cold state, showing a page that was copied in."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from okubsd.host.clip import kept
from okubsd.host.places import Places
from tests.conftest import CHECKOUT
from tests.vm.conftest import distributions_kernel
from tests.vm.world import World, share_of, wait_until

COLOR, OTHER = (18, 140, 84), (140, 18, 84)
PAGE = f"""<!doctype html><title>okubsd</title>
<style>body {{ background: rgb{COLOR}; margin: 0 }}</style>
"""


@pytest.fixture(scope="module")
def browser(built: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world with a Firefox that runs and has shown the page, on the kernel that a newcomer has; tests share it."""
    page = tmp_path_factory.mktemp("browser") / "page.html"
    page.write_text(PAGE)
    built.end_all()
    with distributions_kernel(built):
        built.ok("image", "build", "firefox")
        built.ok("cp", str(page), "browser:")
        built.ok("start", "browser", "firefox", "--headless", "--", "/home/user/page.html")
        assert "cloud" in built.ok("run", "browser", "--", "uname", "-r")
        yield built
    built.assert_nothing_left()


def test_firefox_shows_a_local_page(browser: World, tmp_path: Path) -> None:
    world, page, picture = browser, tmp_path / "page.html", tmp_path / "browser.png"

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
    assert sizes["base"] <= 30e6 and sizes["term"] <= 6e6 and sizes["firefox"] <= 215e6
    # The browser's own sandbox is whole behind ours: what shows pages has a filter more, and a user namespace of its own.
    each = "for p in /proc/[0-9]*; do grep -qa -e '-contentproc' $p/cmdline && "
    script = f"{each} echo $(readlink $p/ns/user) $(sed -n 's/^Seccomp_filters:.//p' $p/status); done; true"
    found = [line.split() for line in world.ok("run", "-r", "browser", "--", "sh", "-c", script).splitlines()]
    assert len({space for space, filters in found if int(filters) >= 2}) >= 2, found


def text_of_page(world: World, vm: str, url: str, wanted: str) -> str:
    """Return what a browser's page of its own says, as a user would copy it; it has ``wanted`` in it."""
    places, said, tries = Places(state=world.state, share=CHECKOUT), [""], itertools.count()

    def is_there() -> bool:
        # A busy browser takes its time; asked again and again it would never be done.
        if next(tries) % 8 == 0:
            world.ok("key", vm, "Ctrl+L")
            time.sleep(3)
            world.ok("type", vm, url)
            world.ok("key", vm, "Return")
        time.sleep(8)
        world.ok("click", vm, "500", "500")
        for keys in ("Ctrl+A", "Ctrl+C"):
            world.ok("key", vm, keys)
            time.sleep(1)
        if world.call("clip", "copy", vm).code == 0:
            clip = kept(places)
            said[0] = clip.data.decode(errors="replace") if clip is not None else ""
        return wanted in said[0]

    wait_until(is_there, 600)
    return said[0]


def test_firefox_says_that_its_own_sandbox_is_whole(browser: World) -> None:
    said = text_of_page(browser, "browser", "about:support", "Seccomp-BPF")
    told = dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)
    for line in (
        "Seccomp-BPF (System Call Filtering)",
        "Seccomp Thread Synchronization",
        "User Namespaces",
        "Content Process Sandboxing",
        "Media Plugin Sandboxing",
    ):
        assert told[line].strip() == "true", said
    assert int(told["Effective Content Process Sandbox Level"]) >= 4


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


def test_an_address_is_opened_by_the_browser_that_runs(world: World, desktop: str, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "p.png"
    page.write_text(PAGE)
    world.ok("image", "build", "firefox")
    world.ok("start", "browser", env={"DISPLAY": desktop})
    world.ok("cp", str(page), "browser:")
    world.ok("run", "browser", "--", "busybox", "httpd", "-p", "127.0.0.1:8080", "-h", "/home/user")
    (world.config / "okubsd/open.rules").write_text("url 127.0.0.1 browser\n")
    assert "browser firefox here" in world.ok("open", "-n", "http://127.0.0.1:8080/page.html")
    try:
        world.ok("open", "http://127.0.0.1:8080/page.html", env={"DISPLAY": desktop})

        def is_shown() -> bool:
            world.ok("screenshot", "browser", str(picture))
            return share_of(picture, COLOR) > 0.5

        wait_until(is_shown, 240)
        # It is the browser that ran, and no other; what handed the address over has ended.
        assert world.ok("run", "browser", "--", "ls", "/run/okubsd/apps").split() == ["firefox"]
        refused = world.call("open", "http://u:p@127.0.0.1/")
        assert refused.code == 2 and "passed on to nobody" in refused.err
    finally:
        (world.config / "okubsd/open.rules").unlink()


def test_chromium_says_that_its_own_sandbox_is_whole(world: World) -> None:
    world.ok("image", "build", "chromium")
    text = world.description.read_text()
    world.description.write_text(
        f"{text}  chrome: {{image: chromium, memory: 2G, cpus: 2, disposable: yes, network: none, boot_timeout: 600}}\n"
    )
    try:
        world.ok("start", "chrome", "--headless")
        said = text_of_page(world, "chrome", "chrome://sandbox", "sandboxed")
        assert "You are adequately sandboxed." in said
        told = dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)
        assert told["Seccomp-BPF sandbox"].strip() == "Yes" and told["PID namespaces"].strip() == "Yes", said
        # What it may do in its own namespaces is nothing that it may do to the guest.
        (looked,) = json.loads(world.ok("audit", "chrome", "--json"))["vms"]
        checks = {check["name"]: check for check in looked["checks"]}
        assert checks["capabilities of the user's"]["good"], checks["capabilities of the user's"]["seen"]
        world.ok("stop", "-f", "chrome")
    finally:
        world.end_all()
        world.description.write_text(text)
