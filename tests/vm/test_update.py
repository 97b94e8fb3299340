"""Images updated apart, with real guests: an archive of our own has a package in one version after the other."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from okubsd.host.release import sources_of
from okubsd.model import Kind
from okubsd.recipe import Recipe
from tests.vm.world import Done, World, wait_until

pytestmark = pytest.mark.vm

# What changes is no first app: each is tried.
RECIPE = "from: base\npackages: [hello-page, xterm]\napps: {other: [xterm], hello: [hello-page]}\n"
SHOWN = "#!/bin/sh\nexec xterm -e sh -c 'cat /usr/share/hello-page; sleep 1000'\n"


class Archive:
    """An APT archive below a directory, with one package in one version."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.suite = f"{sources_of(Recipe(name='x', kind=Kind.APP))[0]}-security"

    def offer(self, version: str, script: str = SHOWN) -> None:
        """Have hello-page in ``version``, whose program is ``script``."""
        tree, pool = self.top / f"tree-{version}", self.top / "pool"
        control = f"Package: hello-page\nVersion: {version}\nArchitecture: all\nMaintainer: none\nDescription: a page\n"
        for name, text in (
            ("DEBIAN/control", control),
            ("usr/bin/hello-page", script),
            ("usr/share/hello-page", version),
        ):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        (tree / "usr/bin/hello-page").chmod(0o755)
        pool.mkdir(exist_ok=True)
        deb = pool / f"hello-page_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb)], check=True, capture_output=True
        )
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        fields = f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
        index = self.top / f"dists/{self.suite}/main/binary-amd64/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(control + fields)
        listed = f" {hashlib.sha256(index.read_bytes()).hexdigest()} {index.stat().st_size} main/binary-amd64/Packages"
        date = subprocess.run(["date", "-Ru"], capture_output=True, text=True, check=True).stdout.strip()
        release = f"Suite: {self.suite}\nCodename: {self.suite}\nComponents: main\nArchitectures: amd64\nDate: {date}\n"
        (self.top / f"dists/{self.suite}/Release").write_text(f"{release}SHA256:\n{listed}\n")


class Updated:
    """okubsd with that archive among its sources."""

    def __init__(self, world: World, archive: Archive) -> None:
        self.world = world
        self.env = {"ARCHIVE": str(archive.top)}

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "tests.vm.with_archive", *args]

    def call(self, *args: str) -> Done:
        done = subprocess.run(
            self.argv(*args), capture_output=True, timeout=900, env={**self.world.env, **self.env}, check=False
        )
        return Done(done)

    def ok(self, *args: str) -> str:
        done = self.call(*args)
        assert done.code == 0, (args, done.out, done.err)
        return done.out

    def build(self) -> str:
        """Return the build that VMs start with."""
        builds = json.loads(self.ok("image", "history", "hello", "--json"))["builds"]
        return next(str(one["build"]) for one in builds if one["current"])


def test_an_image_is_updated_apart_tried_and_rolled_back(world: World, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    tmp_path.chmod(0o755)
    recipe = world.config / "okubsd/images/hello/recipe.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(RECIPE)
    text = world.description.read_text()
    world.description.write_text(f"{text}  hello: {{image: hello, network: none}}\n")
    okubsd = Updated(world, archive)
    try:
        _life_of_an_image(okubsd, archive)
    finally:
        world.end_all()
        okubsd.call("image", "rm", "hello")
        world.description.write_text(text)
        recipe.unlink()


def _life_of_an_image(okubsd: Updated, archive: Archive) -> None:
    archive.offer("1")
    okubsd.ok("start", "hello", "--headless")
    first = okubsd.build()
    assert okubsd.ok("run", "hello", "--", "cat", "/usr/share/hello-page") == "1"
    base = {image["name"]: image["build"] for image in json.loads(okubsd.ok("image", "ls", "--json"))["images"]}

    # Nothing is newer; then something is, of the security team's archive, and it is told by name.
    (told,) = [one for one in check(okubsd) if one["image"] == "hello"]
    assert told["upgrades"] == [] and not told["recipe_changed"]
    archive.offer("2")
    (told,) = [one for one in check(okubsd) if one["image"] == "hello"]
    assert told["upgrades"] == [{"package": "hello-page", "old": "1", "new": "2", "security": True}]
    assert "hello-page 2" in okubsd.ok("update", "--check", "hello")

    # It is built beside the old one, tried, and switched to; what runs is told to be older.
    done = okubsd.call("update", "hello")
    assert done.code == 0 and "hello: trying hello" in done.err, done.err
    assert "hello: runs with an older hello; okubsd restart hello" in done.err
    second = okubsd.build()
    assert second != first
    assert okubsd.world.status("hello")["stale"] == {"hello": first}
    okubsd.ok("restart", "hello", "--headless")
    assert okubsd.ok("run", "hello", "--", "cat", "/usr/share/hello-page") == "2"
    assert okubsd.world.status("hello")["stale"] == {}

    # One whose program paints nothing is refused by its trial; nothing has changed, and nothing is left of it.
    archive.offer("3", "#!/bin/sh\necho 'no window today' >&2\nexit 1\n")
    done = okubsd.call("update", "hello")
    assert done.code == 1 and "image 'hello' stays as it was, since a VM of the new one is not well" in done.err
    assert okubsd.build() == second
    assert len(json.loads(okubsd.ok("image", "history", "hello", "--json"))["builds"]) == 2

    # Killed while it tries: what is current stays, and the guest of the trial ends by itself.
    archive.offer("4")
    update = subprocess.Popen(
        okubsd.argv("update", "hello"),
        env={**okubsd.world.env, **okubsd.env},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: okubsd.world.qemus("trial"), 300)
    os.killpg(update.pid, signal.SIGKILL)
    update.wait()
    wait_until(lambda: not okubsd.world.qemus("trial"), 60)
    assert okubsd.build() == second
    assert len(json.loads(okubsd.ok("image", "history", "hello", "--json"))["builds"]) == 2

    # Back to the first, byte by byte, of which everything else is still current.
    okubsd.ok("image", "rollback", "hello", first)
    assert okubsd.build() == first
    okubsd.ok("restart", "hello", "--headless")
    assert okubsd.ok("run", "hello", "--", "cat", "/usr/share/hello-page") == "1"
    now = {image["name"]: image["build"] for image in json.loads(okubsd.ok("image", "ls", "--json"))["images"]}
    assert now | {"hello": ""} == base | {"hello": ""}
    okubsd.ok("image", "verify", "hello")
    okubsd.ok("stop", "hello")
    okubsd.ok("image", "rollback", "hello", second)
    assert "1 builds were removed" in okubsd.call("image", "prune", "--keep", "1", "hello").err


def check(okubsd: Updated) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(okubsd.ok("update", "--check", "--json", "hello"))["images"]
    return found
