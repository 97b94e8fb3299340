"""One world for the real-VM tests of a worker: images are built once, VMs are stopped after each test."""

from __future__ import annotations

import contextlib
import fcntl
import json
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
            if not first:
                _copy_images(STORE / "state", world.state)
            cloud, own = _kernels(world)
            if cloud and own:
                # Whoever was killed with the other one has left it.
                world.ok("image", "rollback", "boot", own)
            # `make test` has compiled it by now.
            done = world.call("image", "build", "kernel", timeout=3600)
            assert done.code == 0, done.err
            if not _kernels(world)[0]:
                own = _kernels(world)[1]
                world.ok("image", "build", "boot")
                world.ok("image", "rollback", "boot", own)
            world.ok("image", "build", "term", "spy")
        yield world
        world.end_all()


def _copy_images(source: Path, state: Path) -> None:
    """Have the images of the first worker, where its kernel is not there yet: nothing is compiled twice."""
    kernel = source / "images/boot/current"
    if not kernel.exists() or (state / "images/boot" / kernel.resolve().name).exists():
        return
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(mode=0o700, parents=True)
    # With the key that has signed them; another test of the first worker may be building one just now.
    shutil.copytree(source / "key", state / "key")
    shutil.copytree(source / "images", state / "images", symlinks=True, ignore=shutil.ignore_patterns(".*"))


def _kernels(world: World) -> tuple[str, str]:
    """Return the builds of the image with the distribution's kernel, and with our own; "" for one that is not there."""
    done = world.call("image", "history", "boot", "--json")
    builds = json.loads(done.out)["builds"] if done.code == 0 else []
    cloud = [one["build"] for one in builds if any("linux-image-cloud" in package for package in one["packages"])]
    own = [one["build"] for one in builds if one["build"] not in cloud]
    return next(iter(cloud), ""), next(iter(own), "")


@contextlib.contextmanager
def distributions_kernel(world: World) -> Iterator[None]:
    """Have guests start with the distribution's kernel, as they do where none was compiled."""
    cloud, own = _kernels(world)
    world.ok("image", "rollback", "boot", cloud)
    try:
        yield
    finally:
        world.end_all()
        world.ok("image", "rollback", "boot", own)


@pytest.fixture
def clouds_kernel(built: World) -> Iterator[None]:
    """The guests of a test have the distribution's kernel."""
    with distributions_kernel(built):
        yield


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
