"""Measure networks: what a gateway VM costs, and what a rule does to one VM among many."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from okubsd import layout
from okubsd.bench.common import Rows
from okubsd.bench.far_end import OUTSIDE, PAGE, WEB_PORT, FarEnd, far_end
from okubsd.errors import HostLacks, Problem
from okubsd.host import builder, door, programs
from okubsd.host.session import Report, Session
from okubsd.host.trust import is_root
from okubsd.vpn.wg_quick import render_setconf

_DESCRIPTION = """\
defaults: {memory: 192M, disposable: yes, keep: yes}
networks:
  bench-net: {wireguard: tunnel.conf}
vms:
  bench-nat: {image: term, network: nat}
  bench-tunnel: {image: term, network: bench-net}
"""

# The size of what is fetched, in bytes, and how often a connection is made for its time.
_SIZE, _CONNECTIONS = 16 << 20, 20

_WEB = f"mkdir /tmp/www && head -c {_SIZE} /dev/zero >/tmp/www/large && busybox httpd -p 80 -h /tmp/www"

# bash(1) speaks TCP; it prints the nanoseconds that it took, and how much it got.
_FETCH = r"""
fetch() {
	exec 3<>"/dev/tcp/$1/$2" && printf 'GET /%s HTTP/1.0\r\n\r\n' "$3" >&3 && wc -c <&3
}
begin=$(date +%s%N); got=$(fetch "$1" "$2" large); end=$(date +%s%N)
echo "large $((end - begin)) $got"
begin=$(date +%s%N)
for i in $(seq "$3"); do exec 3<>"/dev/tcp/$1/$2" || exit 1; exec 3>&-; done
end=$(date +%s%N)
echo "small $((end - begin))"
"""


def measure(session: Session, rounds: int) -> Rows:
    """Return the figures, a value a round.  Raises HostLacks where we are not root of a Linux."""
    if not (sys.platform == "linux" and is_root()):
        raise HostLacks("'bench net' makes network namespaces, and so needs root of a Linux", "sudo okubsd bench net")
    builder.make_ready(session.places, session.recipes, ("boot", "base", "term", "vpn-gateway"), session.report)
    rows: Rows = {}
    with tempfile.TemporaryDirectory(prefix="okubsd-bench-") as scratch:
        top = Path(scratch)
        made = FarEnd(session.places.images, top, more=_WEB)
        with far_end(made):
            _measure_ways(made, top, rounds, rows, session.report)
        _measure_rules(top, rounds, rows)
    _add_ratios(rows)
    return rows


def _measure_ways(made: FarEnd, top: Path, rounds: int, rows: Rows, report: Report) -> None:
    """Fetch from the same server by the host's uplink, and through a gateway and its tunnel, in turn."""
    tunnel = top / "tunnel.conf"
    door.write(tunnel, (render_setconf(made.tunnel()).replace("[Peer]", "Address = 10.66.0.2/32\n[Peer]")).encode())
    (top / "okubsd.yaml").write_text(_DESCRIPTION)
    ways = {"straight": ("bench-nat", OUTSIDE, WEB_PORT), "gateway": ("bench-tunnel", PAGE, 80)}
    try:
        for vm, _, _ in ways.values():
            _must(made, top, "start", vm, "--no-app")
        for number in range(rounds):
            report(f"round {number + 1} of {rounds}")
            for kind, (vm, address, port) in ways.items():
                speed, delay = _fetch(made, top, vm, address, port)
                rows.setdefault(f"{_WAYS[kind]}: throughput (MB/s)", []).append(speed)
                rows.setdefault(f"{_WAYS[kind]}: time of a connection (ms)", []).append(delay)
    finally:
        for vm, _, _ in ways.values():
            door.run(_okubsd(made, top, "stop", vm), timeout=60)
        door.run(_okubsd(made, top, "stop", "bench-net.gw"), timeout=60)


_WAYS = {"straight": "straight by nat", "gateway": "through a gateway and its tunnel"}


def _okubsd(made: FarEnd, top: Path, *args: str) -> tuple[str, ...]:
    return (*made.enter(made.inside), *programs.okubsd_argv("-q", "-f", str(top / "okubsd.yaml"), *args))


def _must(made: FarEnd, top: Path, *args: str) -> door.Done:
    return door.must(_okubsd(made, top, *args), "measuring networks", timeout=300)


def _fetch(made: FarEnd, top: Path, vm: str, address: str, port: int) -> tuple[float, float]:
    """Return MB/s, and the milliseconds of one connection."""
    command = ("bash", "-c", _FETCH, "bash", address, str(port), str(_CONNECTIONS))
    text = _must(made, top, "run", vm, "--", *command).out.decode()
    large, small = re.search(r"large (\d+) (\d+)", text), re.search(r"small (\d+)", text)
    if large is None or small is None or int(large[2]) < _SIZE:
        raise Problem(f"{vm} did not get what it asked for: {text!r}", shlex.join(command))
    return _SIZE / 1e6 / (int(large[1]) / 1e9), int(small[1]) / 1e6 / _CONNECTIONS


def describe_rules(vms: int, rules: int) -> str:
    """Return a description of ``vms`` VMs with as many ``rules`` each."""
    lines = ["host: {owner: alice, numbers: 1-255}", "vms:"]
    for number in range(vms):
        lines += [f"  vm{number}x:", "    image: term", "    deny:"]
        lines += [f"      - tcp 203.0.{number % 256}.{rule}" for rule in range(rules // 2)]
        lines.append("    allow:")
        lines += [f"      - 198.51.{number % 256}.{rule}:443" for rule in range(rules - rules // 2)]
    return "\n".join(lines) + "\n"


_ONE = "vm100x"


def _measure_rules(top: Path, rounds: int, rows: Rows) -> None:
    """Render many VMs with many rules, and change one rule of one of them: in the time of this process only."""
    from okubsd.config.description import parse_description
    from okubsd.config.edit import add_rule
    from okubsd.host.places import find_places
    from okubsd.host.reading import read_recipes
    from okubsd.plan.apply import plan_rules
    from okubsd.plan.changes import wanted_files
    from okubsd.plan.compile import compile_host, compile_rules
    from okubsd.vpn.keys import TunnelKeys

    recipes = read_recipes(find_places())
    path, text = top / "many.yaml", describe_rules(200, 20)
    for _ in range(rounds):
        start = time.perf_counter()
        description = parse_description(path, text, [], recipes)
        compiled = compile_host(description, recipes, {}, "alice")
        wanted = wanted_files(compiled, {})
        rows.setdefault("200 VMs with 20 rules each, rendered (ms)", []).append(_since(start))
        kept = {vm.vm.name: vm.number for vm in compiled.vms}
        start = time.perf_counter()
        changed = parse_description(path, add_rule(text, _ONE, "allow", "192.168.1.5:631"), [], recipes)
        files = compile_rules(changed, _ONE, kept, TunnelKeys(), 0.0)
        now = {
            f"{layout.ANCHORS}/{_ONE}.conf": wanted[f"{layout.ANCHORS}/{_ONE}.conf"],
            f"{layout.NAMES_OF_RULES}/{_ONE}": None,
        }
        _, changes = plan_rules(_ONE, files, now, runs=True)
        rows.setdefault("one rule of one VM among 200, applied (ms)", []).append(_since(start))
        rows.setdefault("  files that it touches", []).append(len(changes))


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _add_ratios(rows: Rows) -> None:
    for what in ("throughput (MB/s)", "time of a connection (ms)"):
        straight, through = (rows[f"{kind}: {what}"] for kind in _WAYS.values())
        name = f"RATIO through a gateway to straight: {what.split(' (')[0]}"
        rows[name] = [a / b for a, b in zip(through, straight, strict=True)]


def describe_host() -> str:
    """Return the date and the machine, in a line."""
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {os.uname().sysname} {os.uname().release}"
