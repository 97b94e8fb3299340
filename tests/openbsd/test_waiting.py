"""VMs of vmd's that are booted beforehand and stand still: what vmctl says of it, and what is done about it."""

from __future__ import annotations

import json

import pytest

from okubsd.vmd.control import parse_status
from tests.openbsd.test_start import applied  # noqa: F401  (a fixture)
from tests.openbsd.world import World

pytestmark = pytest.mark.spawns


def rows(world: World) -> dict[str, tuple[str, bool]]:
    """Return what vmctl says: the state of each VM, and whether it runs and stands still."""
    text = world.run("vmctl", "status").stdout
    return {row.name: (row.state, row.paused) for row in parse_status(text)}


def test_a_vm_that_was_paused_when_it_did_not_run_does_not_stand_still(applied: World) -> None:  # noqa: F811
    done = applied.run("vmctl", "pause", "term", user="alice")
    assert done.returncode == 1 and "No such file or directory" in done.stderr
    assert rows(applied)["term"] == ("paused", False)
    # A start takes the mark away first; this one fails later, since no guest is there.
    applied.faults(start="memory")
    assert applied.okubsd("start", "term", "--no-app", user="alice").returncode == 1
    assert rows(applied)["term"] == ("stopped", False)


def test_only_its_owner_has_a_vm_wait(applied: World) -> None:  # noqa: F811
    done = applied.run("vmctl", "pause", "term", user="bob")
    assert done.returncode == 1 and "Operation not permitted" in done.stderr


def test_status_says_why_none_can_wait(applied: World) -> None:  # noqa: F811
    said = json.loads(applied.must("status", "term", "--json", user="alice"))
    assert said["begins"] == "by a boot: okubsd pool start term has it booted beforehand"
    applied.change(sysctl={"hw.usermem": str(1 << 30)})
    said = json.loads(applied.must("status", "term", "--json", user="alice"))
    assert said["begins"].startswith("by a boot, and none can wait: VM 'term' wants 192 MB")
    done = applied.okubsd("pool", "start", "term", user="alice")
    assert done.returncode == 1 and "would not leave it" in done.stderr
