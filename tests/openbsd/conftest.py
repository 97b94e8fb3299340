"""Fixtures of the OpenBSD tests."""

from __future__ import annotations

import grp
from pathlib import Path

import pytest

from tests.openbsd.world import World, twin


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A fresh simulated host with images, before any apply; short paths, since sockets lie below."""
    return twin(tmp_path, "/bin/mksh", World.fake_images)


@pytest.fixture(autouse=True, scope="session")
def okubsd_group() -> None:
    """The group that apply asks the real system for."""
    try:
        grp.getgrnam("okubsd")
    except KeyError:
        import subprocess

        # Another worker may be making it just now.
        subprocess.run(["groupadd", "--system", "okubsd"], check=False)
        grp.getgrnam("okubsd")
