"""What a Linux host has for the walls around QEMU, and which accelerator really runs a guest; tried, not guessed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.decode import read_json
from okubsd.host import door, programs
from okubsd.host.places import Places
from okubsd.host.trust import is_root
from okubsd.plan.facts import Accelerator
from okubsd.qemu.argv import QEMU
from okubsd.qemu.rom import SIGN, probe_argv, render_rom

# A probe that works answers within 0.2 s; one that hangs is not worth more than this.
_PROBE_SECONDS = 2.0
_TRIES = 3


def boot_id() -> str:
    """Return what is the same until the host boots again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return door.run(("sysctl", "-n", "kern.boottime"), timeout=5).out.decode().strip()


class _Remembered(msgspec.Struct, frozen=True):
    """Answers that hold until the next boot of the host, or another QEMU."""

    key: str
    accelerator: Accelerator | None = None
    # How often KVM was tried in vain: a busy host fails a probe now and then.
    failed: int = 0


def _remembered(places: Places) -> _Remembered:
    program = programs.find_program(QEMU)
    stamp = Path(program).stat().st_mtime_ns if program else 0
    readable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    # An answer holds for the probe that gave it.
    probe = hashlib.sha256(render_rom()).hexdigest()[:8]
    key = f"{boot_id()} {stamp} {readable} {probe}"
    try:
        answers = read_json((places.state / layout.HOST_ANSWERS).read_bytes(), _Remembered)
    except (OSError, ValueError):
        return _Remembered(key)
    return answers if answers.key == key else _Remembered(key)


def _remember(places: Places, answers: _Remembered) -> None:
    door.make_private(places.state)
    door.write(places.state / layout.HOST_ANSWERS, msgspec.json.encode(answers))


def ask_machine() -> str:
    """Return what stands for this QEMU on this CPU: a state that another one saved does not go on here."""
    program = programs.find_program(QEMU)
    status = Path(program).stat() if program else None
    try:
        cpu = re.findall(r"(?m)^(?:model name|flags|microcode)\s.*", Path("/proc/cpuinfo").read_text())[:3]
    except OSError:
        cpu = []
    words = [*cpu, *((str(status.st_size), str(status.st_mtime_ns)) if status else ())]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def ask_accelerator(places: Places, *, anew: bool = False) -> Accelerator:
    """Return the accelerator that really runs a guest here; asked by a tiny guest, and remembered until a reboot.

    Bad news are believed when they came three times; ``anew`` asks in any case.
    """
    answers = _remembered(places)
    known = answers.accelerator
    if known is not None and not anew and (known.name != "tcg" or answers.failed >= _TRIES):
        return known
    found = probe_accelerator()
    failed = answers.failed + 1 if found.name == "tcg" else 0
    _remember(places, msgspec.structs.replace(answers, accelerator=found, failed=failed))
    return found


def probe_accelerator(device: Path = Path("/dev/kvm"), timeout: float = _PROBE_SECONDS) -> Accelerator:
    """Try KVM with a guest that is nothing but a firmware, and say what came of it."""
    slow = "guests run on QEMU's software CPU, which is 10 to 30 times slower"
    if not device.exists():
        return Accelerator("tcg", f"this host has no {device}: {slow}")
    if not os.access(device, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{device} may not be opened by you: {slow}")
    with tempfile.NamedTemporaryFile(prefix="okubsd-probe-") as rom:
        rom.write(render_rom())
        rom.flush()
        spoke = _guest_speaks(Path(rom.name), timeout)
    if spoke:
        return Accelerator("kvm", f"a guest ran on {device}")
    return Accelerator("tcg", f"{device} opens, but a guest on it does not run: {slow}")


def _guest_speaks(rom: Path, timeout: float) -> bool:
    """Return whether the probe's guest says its letter in time; the probe never outlives this."""
    try:
        # A guest that runs ends by itself after its letter.
        done = door.run(("timeout", "--signal=KILL", str(timeout), *probe_argv(rom, "kvm")), timeout=timeout + 3)
    except subprocess.TimeoutExpired:
        return False
    return SIGN in done.out


def ask_wall() -> str:
    """Return "" where QEMU can have a network namespace of its own, otherwise why it cannot.

    It is tried each time: what a kernel refuses may be allowed a moment later, and the other way round.
    """
    return _try_wall()


def _try_wall() -> str:
    if not sys.platform.startswith("linux"):
        return "this system has no network namespaces"
    for program in ("unshare", "nsenter", "setpriv", "ip"):
        if programs.find_program(program) is None:
            return f"the program '{program}' is not on this host"
    user = () if is_root() else ("--user", "--map-root-user")
    done = door.run(("unshare", *user, "--net", "--", "true"), timeout=10)
    return "" if done.code == 0 else f"a network namespace is refused here: {door.reason(done)}"


def ask_uplink(device: Path = Path("/dev/net/tun")) -> str:
    """Return "" where a namespace can be let out by slirp4netns(1), otherwise why not."""
    if programs.find_program("slirp4netns") is None:
        return "the program 'slirp4netns' is not on this host"
    return "" if os.access(device, os.R_OK | os.W_OK) else f"{device} may not be opened by you"


def ask_addresses() -> tuple[str, ...]:
    """Return the host's own IPv4 addresses, loopback left out."""
    if programs.find_program("ip") is None:
        return ()
    done = door.run(("ip", "-4", "-oneline", "address", "show", "scope", "global"), timeout=10)
    return tuple(re.findall(r"\sinet (\d+\.\d+\.\d+\.\d+)", done.out.decode(errors="replace")))


def has_own_namespace(pid: int) -> bool:
    """Return whether process ``pid`` has another network namespace than we have."""
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def is_confined(pid: int, program: str) -> bool:
    """Return whether process ``pid`` has its own network namespace and has become ``program``.

    unshare(1) writes the map of a user namespace after it made it; before that nobody is root there.
    """
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False
    return name.startswith(program) and has_own_namespace(pid)
