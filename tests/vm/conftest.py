"""One world for the real-VM tests of a worker: images are built once, VMs are stopped after each test."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.vm.world import World

STORE = CHECKOUT / "out/tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).parent.name == "vm":
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def built(worker_id: str) -> Iterator[World]:
    """A world with the images of its small VMs built; each worker of pytest-xdist has one of its own."""
    first = worker_id in ("master", "gw0")
    with tempfile.TemporaryDirectory(prefix="okt-") as tmp:
        world = World(STORE if first else STORE / worker_id, Path(tmp))
        STORE.mkdir(parents=True, exist_ok=True)
        with (STORE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            images = world.state / "images"
            if not first and not images.exists() and (STORE / "state/images").exists():
                world.state.mkdir(mode=0o700, parents=True, exist_ok=True)
                # With the key that has signed them; another test of the first worker may be building one just now.
                shutil.copytree(STORE / "state/key", world.state / "key")
                made = shutil.ignore_patterns(".*")
                shutil.copytree(STORE / "state/images", images, symlinks=True, ignore=made)
            world.ok("image", "build", "term", "spy")
        yield world
        world.end_all()


@pytest.fixture
def world(built: World) -> Iterator[World]:
    """The world, with no VM running before or after, and nothing left behind."""
    built.end_all()
    yield built
    built.end_all()
    built.assert_nothing_left()


@pytest.fixture
def desktop() -> Iterator[str]:
    """An X display like a user's, without authority file."""
    read_end, write_end = os.pipe()
    argv = ["Xvfb", "-displayfd", str(write_end), "-noreset", "-nolisten", "tcp", "-screen", "0", "1400x900x24"]
    server = subprocess.Popen(argv, pass_fds=(write_end,), stderr=subprocess.DEVNULL)
    number = os.read(read_end, 16).decode().strip()
    yield f":{number}"
    server.terminate()
    server.wait()
