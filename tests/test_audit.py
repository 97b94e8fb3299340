"""What a guest says of itself, and what that is worth; what its home keeps and guards, as it is told."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.description import parse_description
from okubsd.errors import BadDescription
from okubsd.guest.audit import (
    KNOBS,
    MOUNTS,
    OFF,
    OPTIONS,
    Check,
    audit,
    gather_command,
    kernel_checks,
    score,
    self_check,
)
from okubsd.guest.identity import Lease, render_settings
from okubsd.host import auditing
from okubsd.host.auditing import stock_audit
from okubsd.model import Guard, Kind, Vm
from okubsd.plan.limits import QEMU, limits
from okubsd.recipe import Recipe, Sandbox

GOOD = """\
knob kernel/kptr_restrict 2
knob kernel/sysrq 0
mount /dev/vdc /home ext4 rw,nosuid,nodev,noatime 0 0
port 177A 0100007F 0
port 0016 00000000 0
process 1 own 0 0 000001ffffffffff 0 0 init
process 2 own 0 0 000001ffffffffff 0 0 kthreadd
process 3 own 2 1000 000001ffffffffff 0 0 kworker/0:0
process 9 own 8 1000 0000000000000000 1 2 xterm
hole meltdown Not affected
"""
NOW = 1_800_000_000


def weak(text: str, archive: int = 0) -> dict[str, str]:
    return {check.name: check.seen for check in audit(text, archive, NOW) if not check.good}


def test_a_good_guest_has_nothing_weak() -> None:
    checks = audit(GOOD, NOW - 86400, NOW)
    assert [check for check in checks if not check.good] == [] and score(checks) == 100
    assert checks[0] == Check("kernel.kptr_restrict", True, "addresses of the kernel are told to nobody")


@pytest.mark.parametrize(
    ("before", "after", "name", "seen"),
    [
        ("kptr_restrict 2", "kptr_restrict 1", "kernel.kptr_restrict", "1, so not"),
        ("kptr_restrict 2", "kptr_restrict x", "kernel.kptr_restrict", "x, so not"),
        ("sysrq 0", "sysrq 176", "kernel.sysrq", "176, so not"),
        ("nosuid,nodev,", "nodev,", "mount /home", "without nosuid"),
        ("port 0016", "port 1F90", "ports for others", "8080"),
        ("port 177A 0100007F", "port 1F90 00000000000000000000000000000000", "ports for others", "8080"),
        ("port 177A 0100007F", "port 177A 00000000", "ports for others", "6010"),
        ("xterm\n", "xterm\nsetuid /usr/bin/su\n", "setuid programs", "/usr/bin/su"),
        (
            "9 own 8 1000 0000000000000000 1 2",
            "9 own 8 1000 0000000000000000 1 0",
            "apps behind a filter",
            "0 processes of 1",
        ),
        (
            "9 own 8 1000 0000000000000000 1 2",
            "9 own 8 1000 0000000000000000 0 2",
            "who could gain privileges",
            "xterm",
        ),
        (
            "9 own 8 1000 0000000000000000 1 2",
            "9 own 8 1000 0000000000200000 1 2",
            "capabilities of the user's",
            "xterm",
        ),
        ("Not affected", "Vulnerable: no microcode", "holes of the processor", "meltdown"),
    ],
)
def test_each_thing_that_is_weak_is_named(before: str, after: str, name: str, seen: str) -> None:
    assert before in GOOD
    found = weak(GOOD.replace(before, after))
    assert list(found) == [name] and seen in found[name]


# A guest that tells all that is asked.
WHOLE = GOOD + "".join(f"mount x {place} x rw,{','.join(options)} 0 0\n" for place, options in MOUNTS.items())
BROWSER = "process 10 {} 9 1000 0000000000200000 1 2 chromium\n"


@pytest.mark.parametrize(
    ("after", "recipe", "refused"),
    [
        (WHOLE, {}, ""),
        (WHOLE.replace("sysrq 0", "sysrq 1"), {}, "kernel.sysrq: 1"),
        (WHOLE.replace("/home x rw,nosuid,", "/home x rw,"), {}, "mount /home: without nosuid"),
        (WHOLE.replace("mount x /tmp", "was x /tmp"), {}, "mount /tmp: not told"),
        (WHOLE + "setuid /usr/bin/su\n", {}, "setuid programs: /usr/bin/su"),
        (WHOLE + "setuid /usr/bin/su\n", {"setuid": ("/usr/bin/su",)}, ""),
        (WHOLE + "setuid /usr/bin/passwd\n", {"setuid": ("/usr/bin/su",)}, "setuid programs: /usr/bin/passwd"),
        (WHOLE.replace("1 2 xterm", "1 0 xterm"), {}, "apps behind a filter: 0 processes of 1"),
        # The window manager is behind the wall in any case.
        (WHOLE.replace("1 2 xterm", "1 2 matchbox-window"), {}, "apps behind a filter: 0 processes of 1"),
        (WHOLE.replace("1 2 xterm", "1 0 xterm"), {"sandbox": Sandbox(on=False)}, ""),
        (WHOLE.replace("1 2 xterm", "1 0 xterm"), {"apps": {}}, ""),
        (WHOLE.replace("1 2 xterm", "0 2 xterm"), {"sandbox": Sandbox(on=False)}, "who could gain privileges: xterm"),
        # A browser's own sandbox has capabilities over itself; over the guest nobody has any.
        (WHOLE + BROWSER.format("apart"), {}, ""),
        (WHOLE + BROWSER.format("own"), {}, "capabilities of the user's: chromium"),
        # What a guest listens on is its services', what its processor leaks the host's.
        (WHOLE + "port 0050 00000000 0\n", {}, ""),
        (WHOLE.replace("Not affected", "Vulnerable"), {}, ""),
    ],
)
def test_a_new_image_is_refused_for_a_wall_that_it_does_not_choose(
    after: str, recipe: dict[str, object], refused: str
) -> None:
    described = Recipe(name="x", kind=Kind.APP, **{"apps": {"x": ("xterm",)}, **recipe})  # type: ignore[arg-type]
    found = self_check(audit(after, 0, NOW, described.setuid), described)
    assert ([] if not refused else [True]) == [refused in one for one in found]


def test_what_was_seen_of_a_stock_debian_names_what_it_was() -> None:
    seen = stock_audit()
    assert seen.release.startswith("Debian 1") and seen.kernel and 0 < score(seen.checks) < 100
    assert {check.name for check in seen.checks} <= {
        *(f"CONFIG_{name}" for name in OPTIONS), *(check.name for check in audit(GOOD, 0, NOW)),
        *(name.replace("/", ".") for name in (*KNOBS, *OFF)), *(f"mount {place}" for place in MOUNTS),
    }  # fmt: skip


CHECKER = """\
#!/bin/sh
[ "$*" = "-c $(dirname "$0")/config -m json" ] || exit 1
case $(cat "$(dirname "$0")/config") in
*UMIP=y*) echo '[{"option_name": "CONFIG_X86_UMIP", "type": "kconfig", "reason": "x", "decision": "defconfig",
  "desired_val": "y", "check_result": "OK", "check_result_bool": true}]' ;;
*endless*) exec sleep 100 ;;
*) echo "no JSON" ;;
esac
"""


@pytest.mark.spawns
def test_the_list_of_kernel_hardening_checker_counts_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, config = tmp_path / "kernel-hardening-checker", tmp_path / "config"
    config.write_text("CONFIG_X86_UMIP=y\n")
    assert auditing._checked_by(program.name, config) == []
    program.write_text(CHECKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert auditing._checked_by(program.name, config) == [Check("CONFIG_X86_UMIP", True, "OK (y by defconfig)")]
    monkeypatch.setattr(auditing, "_CHECKER_SECONDS", 0.3)
    for other in ("endless", "other"):
        config.write_text(other)
        assert auditing._checked_by(program.name, config) == []


def test_old_packages_are_weak() -> None:
    assert weak(GOOD, NOW - 40 * 86400) == {"age of packages": "40 days"}


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=300))
def test_whatever_a_guest_says_is_an_answer_or_none(text: str) -> None:
    for said in (text, GOOD + text):
        with contextlib.suppress(ValueError):
            assert 0 <= score(audit(said, 0, NOW)) <= 100


def test_the_configuration_of_a_kernel_is_judged_option_by_option() -> None:
    wanted = "".join(f"CONFIG_{name}=y\n" for name, (value, _) in OPTIONS.items() if value == "y")
    assert all(check.good for check in kernel_checks(wanted))
    bad = {
        check.name: check.seen
        for check in kernel_checks(f"{wanted}CONFIG_MODULES=y\n".replace("CONFIG_RETPOLINE=y", ""))
        if not check.good
    }
    assert bad == {
        "CONFIG_RETPOLINE": "is not set, so not: programs do not guide its guesses",
        "CONFIG_MODULES": "is set, so not: it loads no code",
    }


def test_knobs_are_words_of_the_command_and_no_part_of_its_script() -> None:
    assert gather_command()[:2] == ("sh", "-c") and "kernel/kptr_restrict" in gather_command()[4:]


RECIPES = {
    "base": Recipe(name="base", kind=Kind.BASE),
    "term": Recipe(name="term", kind=Kind.APP, base="base", apps={"term": ("xterm",)}),
}


def described(more: str) -> Vm:
    text = f"vms:\n  a: {{image: term, {more}}}\n"
    return parse_description(Path("x"), text, [], RECIPES).vms[0]


def test_what_a_home_keeps_and_guards_is_told_to_the_guest() -> None:
    vm = described("persist: [Downloads, .config/gimp], guard: lock")
    assert (vm.persist, vm.guard) == (("Downloads", ".config/gimp"), Guard.LOCK)
    settings = render_settings(vm, Lease()).splitlines()
    assert "persist='Downloads .config/gimp'" in settings and "guard=lock" in settings and "home=drive" in settings
    assert described("memory: 160M").guard is Guard.WARN


@pytest.mark.parametrize(
    "wrong",
    [
        "persist: [../x]",
        "persist: [/etc]",
        "persist: ['a b']",
        "persist: [a/..]",
        "persist: [.ssh]",
        "persist: [-x]",
        "guard: yes",
    ],
)
def test_what_cannot_be_kept_or_guarded_is_told(wrong: str) -> None:
    with pytest.raises(BadDescription):
        described(wrong)


@pytest.mark.parametrize(("text", "ports"), [("[80]", ((80, 80),)), ("['8080:80', 23]", ((8080, 80), (23, 23)))])
def test_ports_are_published_in_the_order_of_ssh(text: str, ports: tuple[tuple[int, int], ...]) -> None:
    assert described(f"publish: {text}").publish == ports


@pytest.mark.parametrize("wrong", ["0", "65536", "80:0", "a", "1:2:3", "22", "8000:6010"])
def test_what_is_no_port_is_told(wrong: str) -> None:
    with pytest.raises(BadDescription):
        described(f"publish: ['{wrong}']")


def test_a_port_of_the_host_is_published_once() -> None:
    text = "vms:\n  a: {image: term, publish: [80]}\n  b: {image: term, publish: ['80:81', 90]}\n"
    found = limits(parse_description(Path("x"), text, [], RECIPES), QEMU)
    assert found == [f"x: vms.{name}.publish: port 80 of this host is published by a, b" for name in "ab"]
