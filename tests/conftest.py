"""What every test gets: a home of its own, and a door that is shut unless the test opens it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parent

# No test depends on how busy the machine is.
hypothesis.settings.register_profile("okubsd", deadline=None)
hypothesis.settings.load_profile("okubsd")


# These files of tests/vm lay interfaces of the host by the same names, so never two of them at once.
_LAY_NETWORKS = ("test_network", "test_openvpn", "test_walls")


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Have the tests of a file run on one worker, and those of all that lay networks on the same, with "loadscope"."""
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.partition("::")[0]).stem
            return "networks" if name in _LAY_NETWORKS else name

    return ByFile(config, log)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short name: sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="okt-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a test away from the user's files, and from spawning anything by accident."""
    if request.node.get_closest_marker("vm"):
        return
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OKUBSD_STATE", str(tmp_path / "state"))
    for name in ("OKUBSD_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if not request.node.get_closest_marker("spawns"):

        def refuse(argv: object, *_: object, **__: object) -> None:
            raise AssertionError(f"a fast test tried to run {argv}")

        monkeypatch.setattr("okubsd.host.door.spawning.subprocess.Popen", refuse)


def same_as_file(path: Path, text: str) -> None:
    """Compare ``text`` with a file that is kept; `make golden`, by OKUBSD_GOLDEN=write, writes it instead."""
    if os.environ.get("OKUBSD_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs; make golden writes it anew"


@pytest.fixture
def golden() -> object:
    """Compare text with a file under tests/golden, by its name."""
    return lambda name, text: same_as_file(HERE / "golden" / name, text)


def run_tool(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a linter over the checkout."""
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
