"""`okubsd doctor` on OpenBSD: each thing that a host can lack, and the command that helps."""

from __future__ import annotations

import json

import msgspec
import pytest

from okubsd.config.parse_y import ConfError
from okubsd.pf.grammar import parse_pf
from okubsd.pf.rule_ends import PfHost
from okubsd.pf.rules import Ruleset
from okubsd.plan.doctor import OpenBsdFacts, datasize, judge_openbsd
from tests.openbsd.world import World

pytestmark = pytest.mark.spawns

# As /etc/pf.conf of a host is, with okubsd's part in it.
RULES = """\
set skip on lo
match in all scrub (no-df)
include "/etc/okubsd/pf.conf"
block return
pass
"""


def rules(text: str = RULES) -> Ruleset:
    ours = 'anchor "okubsd/*"\nblock drop quick on okubsd\n'
    return parse_pf(text, "/etc/pf.conf", PfHost(read=lambda path: ours if path == "/etc/okubsd/pf.conf" else None))


GOOD = OpenBsdFacts(
    user="alice",
    group="okubsd",
    group_exists=True,
    groups=frozenset({"alice", "okubsd"}),
    kernel="mainbus0 at root\nvmm0 at mainbus0: VMX/EPT\n",
    firmware=True,
    services=frozenset({"vmd", "pf"}),
    vmd_answers=True,
    limits="vmd:\t:datasize=16384M:\t:tc=daemon:",
    largest=2 << 30,
    doas="permit persist :wheel\n# --- okubsd begin\npermit nopass :okubsd\n# --- okubsd end\n",
    pf_info="Status: Enabled for 0 days 00:00:39              Debug: err\n",
    pf_conf=rules(),
    egress=("em0",),
    rdomains={"lo101": 101},
    own=frozenset({101}),
    numbers=(100, 249),
)


def test_a_host_that_lacks_nothing() -> None:
    found = judge_openbsd(GOOD)
    assert {finding.state for finding in found} == {"ok"}, found
    said = [finding.what for finding in found]
    assert "pf.conf: 2 rules of the site come after okubsd's, the first /etc/pf.conf:4: block return" in said
    assert "rdomains: 149 of 100 to 249 are free" in said


@pytest.mark.parametrize(
    ("change", "state", "words", "command"),
    [
        ({"kernel": "mainbus0 at root\n"}, "lacks", "no CPU that runs VMs", "dmesg | grep vmm"),
        ({"kernel": ""}, "unknown", "dmesg", "doas okubsd doctor"),
        ({"firmware": False}, "lacks", "vmm-bios", "doas fw_update vmm"),
        ({"services": frozenset({"pf"})}, "lacks", "not started at boot", "doas rcctl enable vmd"),
        ({"vmd_answers": False}, "lacks", "does not answer you", "doas rcctl start vmd"),
        ({"largest": 20 << 30}, "weak", "datasize is 16G, and the largest VM has 20G", "doas vi /etc/login.conf"),
        ({"group_exists": False}, "lacks", "no group 'okubsd'", "doas groupadd okubsd"),
        ({"groups": frozenset({"alice"})}, "lacks", "alice is not in 'okubsd'", "doas usermod -G okubsd alice"),
        ({"doas": ""}, "lacks", "there is none", "su root -c 'cp /etc/examples/doas.conf /etc/doas.conf'"),
        ({"doas": "permit :wheel\n"}, "lacks", "nobody may call the helper", "doas okubsd apply"),
        ({"doas": None}, "unknown", "only root may read it", "doas okubsd doctor"),
        ({"pf_info": "Status: Disabled\n"}, "lacks", "pf: it is not enabled", "doas rcctl enable pf; doas pfctl -e"),
        ({"pf_info": None}, "unknown", "pf: only root may ask", "doas okubsd doctor"),
        ({"pf_conf": None}, "unknown", "pf.conf: only root may read it", "doas okubsd doctor"),
        ({"pf_conf": rules("pass\n")}, "lacks", "okubsd's rules are not in it", "doas okubsd apply"),
        ({"pf_conf": rules("pass quick\n" + RULES)}, "weak", "/etc/pf.conf:1: it decides before", "doas vi /etc/pf.conf"),
        ({"pf_conf": rules("set skip on tap\n" + RULES)}, "weak", "set skip on tap", "doas vi /etc/pf.conf"),
        ({"pf_conf": ConfError(3, "syntax error")}, "weak", "/etc/pf.conf:3: syntax", "doas pfctl -n -f /etc/pf.conf"),
        ({"egress": ()}, "weak", "no interface has a default route", "route -n show -inet"),
        ({"rdomains": {"wg9": 105}}, "weak", "148 of 100 to 249 are free; not okubsd's: wg9 is in 105", "ifconfig"),
    ],
)  # fmt: skip
def test_what_a_host_can_lack(change: dict[str, object], state: str, words: str, command: str) -> None:
    found = [finding for finding in judge_openbsd(msgspec.structs.replace(GOOD, **change)) if finding.state != "ok"]
    assert len(found) >= 1, change
    assert found[0].state == state
    assert words in found[0].what
    assert found[0].command.startswith(command)


@pytest.mark.parametrize(
    ("record", "size"),
    [
        ("vmd:\t:datasize=16384M:\t:tc=daemon:", 16 << 30),
        ("vmd:datasize-cur=512k:datasize-max=1g:", 512 << 10),
        ("vmd:datasize=infinity:", None),
        ("vmd:openfiles=512:datasize=100:", 100),
        ("", None),
    ],
)
def test_the_limit_of_a_login_class(record: str, size: int | None) -> None:
    assert datasize(record) == size


def doctor(world: World, user: str) -> tuple[int, dict[str, str]]:
    done = world.okubsd("doctor", "--json", user=user)
    answer = json.loads(done.stdout)
    return done.returncode, {line["what"].partition(":")[0]: line["state"] for line in answer["findings"]}


def test_a_fresh_host_is_told_what_comes_next_and_then_is_well(world: World) -> None:
    code, before = doctor(world, "root")
    assert code != 0
    assert (before["vmm"], before["firmware"], before["vmd"], before["doas.conf"]) == ("ok", "ok", "lacks", "lacks")
    world.must("apply", "--yes")
    _, after = doctor(world, "root")
    parts = ("vmm", "firmware", "vmd", "group", "doas.conf", "pf", "pf.conf", "egress", "rdomains")
    assert {part: after[part] for part in parts} == dict.fromkeys(parts, "ok")


def test_a_user_is_told_what_only_root_sees(world: World) -> None:
    world.must("apply", "--yes")
    _, found = doctor(world, "alice")
    assert found["pf"] == "unknown"
    world.faults(vmm="none", pf="off")
    _, found = doctor(world, "root")
    assert (found["vmm"], found["pf"]) == ("lacks", "lacks")
    world.write("vms: [")
    done = world.okubsd("doctor", user="alice")
    assert "Traceback" not in done.stderr
    assert "the description has mistakes" in done.stderr


def test_a_report_of_an_openbsd_host_has_its_rules_and_no_key(world: World) -> None:
    key = "wKvMOYzOM5jZ6Cb1V9YGNkmbTbOj3WbqbgIJPkAHMFI="
    tunnel = world.root / "wg0.conf"
    tunnel.write_text(
        f"[Interface]\nPrivateKey = {key}\nAddress = 10.9.0.2/32\n[Peer]\nPublicKey = {key}\n"
        "Endpoint = 203.0.113.77:51820\nAllowedIPs = 0.0.0.0/0\n"
    )
    tunnel.chmod(0o600)
    world.write(
        f"host:\n  owner: alice\nnetworks:\n  work:\n    wireguard: {tunnel}\n"
        "vms:\n  term:\n    image: term\n    memory: 192M\n    network: work\n"
        '    allow: ["secret.example.org:443"]\n'
    )
    world.must("apply", "--yes")
    text = world.must("report", "--output", "-")
    for part in (
        "===== vmctl status",
        "===== pfctl -s rules -a '*'",
        "/etc/okubsd/pf/term.conf",
        "vm.conf",
        "ok      vmm",
    ):
        assert part in text, part
    for secret in (key, "203.0.113.77", "10.9.0.2", "secret.example.org", "alice"):
        assert secret not in text, secret
    # An ordinary user has less, and no failure.
    assert "only root may ask" in world.must("report", "--output", "-", user="alice")
