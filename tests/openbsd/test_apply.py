"""apply and unapply on a simulated host: what changes, what is undone, and what a power cut leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from okubsd.errors import Problem
from okubsd.host import apply as applying
from okubsd.host import perform
from okubsd.host.performance import Performance
from okubsd.host.session import Session
from okubsd.host.system import HostRoot
from okubsd.hostfile import FileState
from okubsd.plan import steps
from okubsd.plan.apply import ApplyFacts, plan_apply, plan_unapply
from okubsd.plan.compile import compile_host
from okubsd.plan.steps import Plan
from tests.openbsd.test_compile import RECIPES, wish_of
from tests.openbsd.world import DESCRIPTION, World

pytestmark = pytest.mark.spawns

OTHER = """\
host: {owner: alice}
vms:
  term: {image: term, memory: 256M, home: 64M, network: none}
  mail: {image: term}
"""


def test_a_second_apply_has_nothing_to_do(world: World) -> None:
    first = world.must("apply", "-y")
    assert "+++ /etc/okubsd/vm.conf" in first and '+include "/etc/okubsd/pf.conf"' in first
    before = world.tree()
    again = world.okubsd("apply", "-y")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "okubsd: nothing to do\n")
    assert world.tree() == before
    assert sorted(world.state["vms"]) == ["term", "vault"] and world.state["rc"] == ["okubsd", "vmd"]
    assert world.state["sysctl"] == {"net.inet.ip.forwarding": "1"}


def test_files_have_their_modes(world: World) -> None:
    (world.root / "etc/doas.conf").write_text("permit persist :wheel\n")
    (world.root / "etc/doas.conf").chmod(0o640)
    world.must("apply", "-y")
    modes = {name: mode for name, (_, mode) in world.tree().items()}
    assert modes["etc/doas.conf"] == 0o640, "the administrator's mode is kept"
    assert modes["etc/hostname.lo100"] == 0o640 and modes["etc/okubsd/pf/term.conf"] == 0o600
    assert modes["etc/okubsd/vm.conf"] == 0o644


def test_unapply_takes_back_every_byte(world: World) -> None:
    files = {
        "etc/doas.conf": "permit persist :wheel\n", "etc/vm.conf": "# mine\nlocal prefix 10.0.0.0/8", "etc/sysctl.conf": "a=1\n",
    }  # fmt: skip
    for name, text in files.items():
        (world.root / name).write_text(text)
    before = world.tree("etc")
    world.must("apply", "-y")
    assert world.tree("etc") != before
    world.must("unapply", "-y")
    assert world.tree("etc") == before
    assert world.state["vms"] == {} and "okubsd" not in world.state["rc"]
    assert (world.root / "var/okubsd/vms/term/home.img").exists(), "homes stay"
    assert "nothing to do" in world.okubsd("unapply", "-y").stderr


def test_nothing_stays_after_unapply(world: World) -> None:
    world.must("apply", "-y")
    # As after the two VMs ran: their loopbacks, and what the helper notes of them.
    world.change(interfaces={"lo100": ["rdomain 100"], "lo101": ["rdomain 101"], "lo7": ["rdomain 7"]})
    (world.root / "var/run/okubsd").mkdir(parents=True, exist_ok=True)
    (world.root / "var/run/okubsd/term.guest").write_text("100.64.1.3\n")
    (world.root / "etc/okubsd/okubsd.yaml").unlink(missing_ok=True)
    world.must("unapply", "-y")
    assert sorted(world.state["interfaces"]) == ["lo7"]
    assert not (world.root / "var/run/okubsd").exists()
    left = {str(path.relative_to(world.root)) for path in (world.root / "etc/okubsd").rglob("*")}
    assert not left & {"etc/okubsd/pf", "etc/okubsd/vms", "etc/okubsd/names"}
    world.must("apply", "-y")


@pytest.mark.parametrize("before", ["0", "1"])
def test_the_host_forwards_afterwards_as_it_did_before(before: str, world: World) -> None:
    world.change(sysctl={"net.inet.ip.forwarding": before})
    world.must("apply", "-y")
    assert world.state["sysctl"]["net.inet.ip.forwarding"] == "1"
    assert "nothing to do" in world.okubsd("apply", "-y").stderr, "what was before is written once"
    world.must("unapply", "-y")
    assert world.state["sysctl"]["net.inet.ip.forwarding"] == before


@pytest.mark.parametrize("before", ["0", "1"])
def test_a_first_apply_that_is_cut_leaves_forwarding_as_it_was(
    before: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(sysctl={"net.inet.ip.forwarding": before})

    def first(system: HostRoot) -> Plan:
        result = compile_host(wish_of(DESCRIPTION), RECIPES, {}, "alice")
        return plan_apply(result, applying.ask_apply(system, result))[0]

    total = cut_after(world, 0, first, monkeypatch)
    cut_after(world, total - 1, first, monkeypatch)
    assert world.state["sysctl"]["net.inet.ip.forwarding"] == "1"
    applying.restore(Session())
    assert world.state["sysctl"]["net.inet.ip.forwarding"] == before


def test_the_plan_is_shown_and_nothing_done(world: World) -> None:
    before = world.tree()
    shown = world.must("apply", "-n")
    assert "pfctl -n -f /var/okubsd/apply/new/etc/pf.conf" in shown
    assert shown.index("/usr/sbin/vmd -n") < shown.index("# write /etc/okubsd/vm.conf")
    assert shown.index("# write /etc/pf.conf") < shown.index("pfctl -f /etc/pf.conf")
    assert world.tree() == before


def test_without_a_terminal_it_wants_a_yes(world: World) -> None:
    done = world.okubsd("apply")
    assert done.returncode == 2 and "no terminal to ask on" in done.stderr
    assert not (world.root / "etc/okubsd/vm.conf").exists()


def test_a_change_changes_only_its_files(world: World) -> None:
    world.must("apply", "-y")
    world.write(DESCRIPTION.replace("memory: 192M", "memory: 256M", 1))
    shown = world.must("apply", "-y")
    assert [line for line in shown.splitlines() if line.startswith("+++")] == ["+++ /etc/okubsd/vm.conf"]


def test_a_vm_that_is_described_no_more_loses_its_files(world: World) -> None:
    world.must("apply", "-y")
    world.write(OTHER)
    world.must("apply", "-y")
    tree = world.tree("etc")
    assert not any("vault" in name or "vault" in text for name, (text, _) in tree.items())
    assert "etc/hostname.lo101" in tree, "mail got the number that became free"
    assert sorted(world.state["vms"]) == ["mail", "term"]


def test_a_missing_image_is_told_before_anything(world: World) -> None:
    shutil.rmtree(world.root / "var/okubsd/images/base")
    before = world.tree()
    done = world.okubsd("apply", "-y")
    assert done.returncode == 1 and "these images are not on this host: base" in done.stderr
    assert "doas okubsd image import FILE" in done.stderr and world.tree() == before


def test_only_root_applies(world: World) -> None:
    before = world.tree("etc")
    for args in (("apply", "-y"), ("unapply", "-y"), ("apply", "--recover")):
        done = world.okubsd(*args, user="alice")
        assert done.returncode == 1 and "apply changes files of root's" in done.stderr, (args, done.stderr)
        assert "doas okubsd apply" in done.stderr
    assert world.tree("etc") == before
    # What only looks is for everybody.
    assert world.okubsd("why", "term", "198.51.100.1", user="alice").returncode == 0


BROKEN = {
    "a syntax error in pf.conf": (lambda w: append(w, "etc/pf.conf", "pas in\n"), "/etc/pf.conf:"),
    "an unknown macro in pf.conf": (lambda w: append(w, "etc/pf.conf", "pass to $x\n"), "macro 'x' not defined"),
    "a syntax error in vm.conf": (lambda w: append(w, "etc/vm.conf", 'vm "x" { cpus 2 }\n'), "/etc/vm.conf:1: syntax error"),
    "a VM of the same name in vm.conf": (
        lambda w: append(w, "etc/vm.conf", 'vm "term" {\n\tdisable\n\tdisk "/v"\n}\n'), "vm term is used twice"),
    "a broken doas.conf": (lambda w: append(w, "etc/doas.conf", "allow alice\n"), "syntax error at line 1"),
    "pf.conf is a link": (lambda w: link(w, "etc/pf.conf"), "is not a file that okubsd could edit"),
    "pf refuses the rules": (lambda w: w.faults(pf="main"), "read the pf rules"),
    "vmd refuses to read": (lambda w: (w.must("apply", "-y"), w.write(OTHER), w.faults(reload=True)), "let vmd read"),
    "a description with mistakes": (lambda w: w.write("vms: {a: {image: nosuch}}"), "no recipe"),
}  # fmt: skip


def append(world: World, name: str, text: str) -> None:
    path = world.root / name
    path.write_text((path.read_text() if path.exists() else "") + text)


def link(world: World, name: str) -> None:
    path = world.root / name
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("what", BROKEN)
def test_what_fails_changes_nothing(what: str, world: World) -> None:
    breaking, words = BROKEN[what]
    breaking(world)
    before = world.tree("etc")
    done = world.okubsd("apply", "-y")
    assert done.returncode in (1, 8) and words in done.stderr, done.stderr
    assert world.tree("etc") == before
    assert not (world.root / "var/okubsd/apply/journal").exists()


def test_after_a_refused_reload_a_good_one_brings_the_vms_back(world: World) -> None:
    world.must("apply", "-y")
    world.write(OTHER)
    world.faults(reload=True)
    assert world.okubsd("apply", "-y").returncode == 1
    world.faults()
    world.must("apply", "-y")
    assert sorted(world.state["vms"]) == ["mail", "term"]


@pytest.mark.parametrize("fault", ["gone", "refused"])
def test_a_vmd_that_is_down_is_no_reason_to_fail(fault: str, world: World) -> None:
    world.must("apply", "-y")
    if fault == "refused":
        world.change(vmd=False)
    else:
        state = world.state
        del state["vmd"]
        (world.root / "sim/state.json").write_text(__import__("json").dumps(state))
    world.write(OTHER)
    world.must("apply", "-y")
    assert '"mail"' in world.tree("etc")["etc/okubsd/vm.conf"][0]


# --- the plan, by value ------------------------------------------------------------------------


def facts_of(**values: object) -> ApplyFacts:
    given: dict[str, object] = {"files": {"etc/pf.conf": FileState("pass\n", 0o600)}, "running": {}, "vmd_runs": True}
    given |= {"images": frozenset({"boot", "base", "term"})} | values
    return ApplyFacts(**given)  # type: ignore[arg-type]


def compiled(text: str = DESCRIPTION) -> object:
    return compile_host(wish_of(text), RECIPES, {"term": 100, "vault": 101}, "alice")


def names(plan: Plan) -> list[str]:
    return [step.what for step in plan]


def test_block_first_open_last() -> None:
    result = compiled()
    _, changes = plan_apply(result, facts_of())  # type: ignore[arg-type]
    files = {change.path: change.new for change in changes}
    plan, _ = plan_apply(
        compiled(DESCRIPTION.replace("home: 64M", "home: 64M\n    network: none")),  # type: ignore[arg-type]
        facts_of(files=files, running={"term": 100}, drives=frozenset({"term", "vault"}), taps=frozenset({100, 101}),
                 numbers=frozenset({100, 101}), services=frozenset({"vmd", "okubsd"}), sysctls={"net.inet.ip.forwarding": "1"}),
    )  # fmt: skip
    order = names(plan)
    assert order[0] == "write the candidates"
    assert order.index("let OpenBSD judge the new /etc/okubsd/pf/term.conf") < order.index(
        "keep the old files until all is done"
    )
    assert order.index("keep the old files until all is done") < order.index("shut term")
    assert order.index("shut term") < order.index("write /etc/okubsd/pf/term.conf") < order.index("open term")
    assert order[-1] == "drop the old files"
    assert "read the pf rules" not in order and "let vmd read its configuration" not in order


def test_a_running_vm_keeps_its_number_and_its_description() -> None:
    with pytest.raises(Problem, match="runs with the number 150 and would get 100"):
        plan_apply(compiled(), facts_of(running={"term": 150}))  # type: ignore[arg-type]
    with pytest.raises(Problem, match="'gone' runs, and is described no more"):
        plan_apply(compiled(), facts_of(running={"gone": 150}))  # type: ignore[arg-type]
    with pytest.raises(Problem, match="these VMs run: term"):
        plan_unapply(facts_of(running={"term": 100}))


def test_vmd_is_never_restarted() -> None:
    plan, _ = plan_apply(compiled(), facts_of())  # type: ignore[arg-type]
    calls = [step.argv for step in plan if isinstance(step, steps.Call)]
    assert ("vmctl", "reload") in calls
    assert not any("restart" in argv for argv in calls)


# --- a power cut between any two steps -------------------------------------------------------------


def cut_after(world: World, count: int, plan: Callable[[HostRoot], Plan], monkeypatch: pytest.MonkeyPatch) -> int:
    """Perform the first ``count`` steps of a plan and nothing more, as a power cut would; return how many there are."""
    system = HostRoot(world.root)
    for name, value in world.env().items():
        monkeypatch.setenv(name, value)
    made = plan(system)
    for step in made[:count]:
        perform.perform_step(step, Performance(Session()))
    return len(made)


def second_apply(system: HostRoot) -> Plan:
    result = compile_host(wish_of(OTHER), RECIPES, applying.kept_numbers(system), "alice")
    return plan_apply(result, applying.ask_apply(system, result))[0]


def unapply(system: HostRoot) -> Plan:
    return plan_unapply(applying.ask_apply(system, compile_host(wish_of("vms: {}"), RECIPES, {}, "alice")))[0]


# Each share of the prefixes is a test of its own, so that all processors have some.
_SHARES = 4


@pytest.mark.parametrize("share", range(_SHARES))
@pytest.mark.parametrize("plan", [second_apply, unapply], ids=["apply", "unapply"])
def test_from_every_prefix_the_host_is_old_or_new(
    plan: Callable[[HostRoot], Plan], share: int, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.must("apply", "-y")
    kept = tmp_path / "kept"
    shutil.copytree(world.root / "etc", kept / "etc", symlinks=True)
    shutil.copytree(world.root / "sim", kept / "sim", symlinks=True)
    old = world.tree("etc")
    count, total, tried = share, share, 0
    while count <= total:
        for name in ("etc", "sim"):
            shutil.rmtree(world.root / name)
            shutil.copytree(kept / name, world.root / name, symlinks=True)
        total = cut_after(world, count, plan, monkeypatch)
        new = world.tree("etc")
        applying.restore(Session())
        after = world.tree("etc")
        assert after == (new if count == total else old), f"cut after step {count} of {total}"
        assert not (world.root / "var/okubsd/apply/journal").exists()
        assert sorted(world.state["vms"]) == (
            ["term", "vault"] if count < total else (["mail", "term"] if plan is second_apply else [])
        )
        assert (after == old) is (count < total)
        count, tried = count + _SHARES, tried + 1
    assert total > 8 and tried == len(range(share, total + 1, _SHARES))


def test_a_damaged_journal_is_said_so(world: World) -> None:
    world.must("apply", "-y")
    (world.root / "var/okubsd/apply/journal").write_text("{")
    done = world.okubsd("apply", "-y")
    assert done.returncode == 1 and "is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_next_apply_goes_back_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.must("apply", "-y")
    cut_after(world, 9, second_apply, monkeypatch)
    assert (world.root / "var/okubsd/apply/journal").exists()
    done = world.okubsd("apply", "--recover")
    assert done.returncode == 0 and "the files of before are back" in done.stderr
    assert "nothing to do" in world.okubsd("apply", "-y").stderr


def test_an_interface_of_the_administrators_is_not_taken(world: World) -> None:
    (world.root / "etc/hostname.lo101").write_text("rdomain 101\ninet 10.0.0.1/8\n")
    before = world.tree("etc")
    done = world.okubsd("apply", "-y")
    assert done.returncode == 1 and "/etc/hostname.lo101 is not okubsd's" in done.stderr and "'vault'" in done.stderr
    assert world.tree("etc") == before


def test_an_interface_without_a_file_is_not_taken_either(world: World) -> None:
    world.change(interfaces={"lo101": ["rdomain 101"]})
    before = world.tree("etc")
    done = world.okubsd("apply", "-y")
    assert done.returncode == 1 and "lo101 is not okubsd's, and VM 'vault' would get the number 101" in done.stderr
    assert world.tree("etc") == before


def test_without_pf_nothing_is_applied(world: World) -> None:
    world.faults(pf="off")
    done = world.okubsd("apply", "-y")
    assert done.returncode == 1 and "pf is not enabled" in done.stderr
