"""OpenBSD's own verdicts: its parsers judged these files, its programs printed these texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from okubsd.config.parse_y import ConfError
from okubsd.netif.ifconfig import parse_ifconfig, tap_mistakes
from okubsd.pf import grammar as pf
from okubsd.pf import rules as pf_rules
from okubsd.pf.rule_ends import PfHost
from okubsd.vmd import conf as vmd_conf
from okubsd.vmd import grammar as vmd
from okubsd.vmd.control import Outcome, parse_answer, parse_status

CORPUS = Path(__file__).parent / "corpus"

VMD_HOST = vmd.Host(
    has_user=lambda name: name == "root",
    has_group=lambda name: name == "wheel",
    has_file=lambda path: "/gone/" not in path,
)
# The host that the verdicts were given on (corpus/README.md).
PF_HOST = PfHost(
    interfaces={
        "lo0": ("127.0.0.1/8",), "lo101": ("127.0.0.1/8",), "em0": ("192.0.2.10/24",), "egress": ("192.0.2.10/24",),
        "wg101": ("10.64.0.2/32",), "tap101": ("100.64.1.2/31",),
    },
    present=frozenset({"lo0", "lo101", "em0", "wg101", "tap101", "veb1", "vport1"}),
    rtables=frozenset({0, 101}),
)  # fmt: skip


def files(pattern: str) -> list[Path]:
    found = sorted(CORPUS.glob(pattern))
    assert found, pattern
    return found


def names(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", files("vmconf/accept/*.conf"), ids=names)
def test_vmd_takes_it(path: Path) -> None:
    conf = vmd.parse_conf(path.read_text(), VMD_HOST)
    assert vmd_conf.load_errors(conf) == []
    assert bool(vmd_conf.traps(conf)) is path.name.startswith("trap-")


@pytest.mark.parametrize("path", files("vmconf/reject/*.conf"), ids=names)
def test_vmd_refuses_it(path: Path) -> None:
    words = path.with_suffix(".err").read_text()
    if path.name.startswith("load-"):
        conf = vmd.parse_conf(path.read_text(), VMD_HOST)
        assert [error.split(" (")[0] for error in vmd_conf.load_errors(conf)] == [
            words.splitlines()[-1].split(".conf:")[1]
        ]
        return
    with pytest.raises(ConfError) as error:
        vmd.parse_conf(path.read_text(), VMD_HOST)
    # The same line and the same words; what follows the first syntax error is of no use.
    assert f"{path.name}:{error.value}" in words


# pfctl's words for these come without a line, or from the line where it noticed.
_OTHER_WORDS = {"inline-anchor-unclosed", "prefix-33", "queue-no-default", "quote-unterminated"}


@pytest.mark.parametrize("path", files("pf/accept/*.conf"), ids=names)
def test_pf_takes_it(path: Path) -> None:
    ruleset = pf.parse_pf(path.read_text(), path.name, PF_HOST)
    assert bool(pf_rules.traps(ruleset)) is path.name.startswith("trap-")


@pytest.mark.parametrize("path", files("pf/reject/*.conf"), ids=names)
def test_pf_refuses_it(path: Path) -> None:
    with pytest.raises(ConfError) as error:
        pf.parse_pf(path.read_text(), path.name, PF_HOST)
    if path.stem not in _OTHER_WORDS:
        assert f"{path.name}:{error.value}" in path.with_suffix(".err").read_text()


def expanded(rule: pf_rules.PfRule) -> int:
    """Return how many rules pfctl writes for ``rule``: one for each combination of its lists."""
    count = 1
    for values in (rule.on, rule.protocols, rule.source, rule.source_ports, rule.target, rule.target_ports):
        count *= max(1, len(values))
    return count


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in files("pf/accept/*.conf")
        if p.stem not in ("antispoof", "icmp", "af-to-none-icmp6", "queues", "nat-to-static")
    ],
    ids=names,
)
def test_as_many_rules_come_of_it_as_pfctl_writes(path: Path) -> None:
    printed = path.with_suffix(".out").read_text().splitlines()
    rules = [line for line in printed if re.match(r"\s*(pass|block|match|anchor)\b", line)]
    ruleset = pf.parse_pf(path.read_text(), path.name, PF_HOST)
    assert sum(expanded(rule) for rule in pf_rules.walk(ruleset.rules)) == len(rules)


class Sample:
    """One observation: the command, its exit code, and what it printed."""

    def __init__(self, path: Path) -> None:
        lines = path.read_text().rstrip("\n").split("\n")
        self.command = lines[0].removeprefix("$ ").split()
        code = re.search(r"exit (\d+)", lines[1])
        self.code = int(code[1]) if code else 0
        self.streams = {"# stdout": "", "# stderr": ""}
        current = ""
        for line in lines[2:]:
            if line in self.streams:
                current = line
            elif current:
                self.streams[current] += line + "\n"
        self.out, self.err = self.streams.values()


@pytest.mark.parametrize("path", files("samples/vmctl-status-*.txt"), ids=names)
def test_every_status_is_read(path: Path) -> None:
    sample = Sample(path)
    rows = parse_status(sample.out)
    assert len(rows) == max(0, len(sample.out.splitlines()) - 1)
    assert {row.name for row in rows} == {line.split()[-1] for line in sample.out.splitlines()[1:]}
    assert all(row.running is (row.pid is not None) for row in rows)


def test_a_stopped_vm_that_says_paused_does_not_run() -> None:
    (row,) = parse_status(Sample(CORPUS / "samples/vmctl-status-stopped-while-paused.txt").out)
    assert (row.state, row.running) == ("paused", False)


def test_a_waiting_vm_is_one() -> None:
    rows = parse_status(Sample(CORPUS / "samples/vmctl-status-waiting.txt").out)
    assert [row.name for row in rows if row.state == "waiting"] == ["mail"]


def test_columns_are_found_by_their_names() -> None:
    (row,) = parse_status("NAME PID ID OWNER STATE MAXMEM\nwork 12 3 alice running 1.5G\n".replace("NAME PID", "ID PID", 1)
                          .replace(" ID OWNER", " OWNER", 1).replace("MAXMEM", "MAXMEM NAME", 1)
                          .replace("work 12 3 alice running 1.5G", "3 12 alice running 1.5G work"))  # fmt: skip
    assert (row.id, row.pid, row.memory, row.name) == (3, 12, 1536 << 20, "work")


@pytest.mark.parametrize("text", ["ID PID\n", "ID PID MAXMEM OWNER STATE NAME\n1 2\n"])
def test_a_table_that_is_none_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match="vmctl status"):
        parse_status(text)


MEANINGS = {
    "vmctl-start-already-running": Outcome.ALREADY,
    "vmctl-start-while-paused": Outcome.ALREADY,
    "vmctl-start-ok": Outcome.DONE,
    "vmctl-start-then-dies-zstd-image": Outcome.DONE,
    "vmctl-start-not-owner": Outcome.REFUSED,
    "vmctl-start-unknown-user": Outcome.REFUSED,
    "vmctl-start-restarted-too-quickly": Outcome.REFUSED,
    "vmctl-start-disk-locked": Outcome.NO_DRIVE,
    "vmctl-start-disk-missing": Outcome.NO_DRIVE,
    "vmctl-start-unknown-root": Outcome.NO_DRIVE,
    "vmctl-start-cdrom-missing": Outcome.NO_DRIVE,
    "vmctl-start-backing-missing": Outcome.BAD_DRIVE,
    "vmctl-start-disk-not-regular": Outcome.BAD_DRIVE,
    "vmctl-start-raw-named-qcow2": Outcome.BAD_DRIVE,
    "vmctl-start-no-firmware": Outcome.NO_FIRMWARE,
    "vmctl-start-tap-node-missing": Outcome.NO_TAP,
    "vmctl-start-vmd-down": Outcome.NO_VMD,
    "vmctl-status-vmd-down-stale-socket": Outcome.NO_VMD,
    "vmctl-stop-stopped": Outcome.ALREADY,
    "vmctl-stop-unknown": Outcome.UNKNOWN_VM,
    "vmctl-stop-ok": Outcome.DONE,
    "vmctl-stop-not-owner": Outcome.REFUSED,
    "vmctl-reload-bad-config": Outcome.BAD_CONFIG,
    "vmctl-reload-not-root": Outcome.REFUSED,
    "vmctl-console-stopped": Outcome.UNKNOWN_VM,
    "vmctl-wait-unknown": Outcome.UNKNOWN_VM,
    "vmctl-unknown-command": Outcome.OTHER,
}


@pytest.mark.parametrize("name", MEANINGS)
def test_vmctls_words_have_a_meaning(name: str) -> None:
    sample = Sample(CORPUS / f"samples/{name}.txt")
    answer = parse_answer(sample.code, sample.err)
    assert answer.outcome is MEANINGS[name]
    assert answer.words or sample.code == 0


def test_words_that_nobody_knows_are_kept_whole() -> None:
    answer = parse_answer(1, "vmctl: start vm command failed: Device busy\n")
    assert (answer.outcome, answer.words) == (Outcome.OTHER, "start vm command failed: Device busy")


@pytest.mark.parametrize("path", files("samples/ifconfig-tap-*.txt"), ids=names)
def test_ifconfig_is_read(path: Path) -> None:
    sample = Sample(path)
    tap = parse_ifconfig(sample.out)
    assert (tap is None) is (sample.code != 0)
    if tap is not None:
        assert tap.up is ("UP," in sample.out)
        assert ("tap" in tap.groups) and tap.rdomain == int((re.search(r"rdomain (\d+)", sample.out) or [0, "0"])[1])


@pytest.mark.parametrize(
    ("name", "mistakes"),
    [
        ("ifconfig-tap-local-vm1", []),
        ("ifconfig-tap-precreated-running", []),
        ("ifconfig-tap-missing", ["tap101 is not there"]),
        ("ifconfig-tap-second-nic-rdomain0", ["tap102 is in rdomain 0 instead of 101"]),
        ("ifconfig-tap-just-after-stop", ["tap1 is down"]),
    ],
)
def test_what_vmd_only_logs_is_seen(name: str, mistakes: list[str]) -> None:
    assert tap_mistakes(parse_ifconfig(Sample(CORPUS / f"samples/{name}.txt").out), 101, 101, "okubsd") == mistakes


def test_the_guest_is_the_other_end() -> None:
    tap = parse_ifconfig(Sample(CORPUS / "samples/ifconfig-tap-local-vm2-nic1.txt").out)
    assert tap is not None and (tap.address, tap.guest) == ("100.64.2.4/31", "100.64.2.5")
