"""One look at the host and its VMs; nothing here changes anything but two caches."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from okubsd.host import door, keys, programs, store, vmd
from okubsd.host.homes import store_sizes
from okubsd.host.places import Places
from okubsd.host.running import ask_rows, live_display, live_qemu, why_it_stands_still
from okubsd.host.sockets import listener_pid
from okubsd.model import Accelerator
from okubsd.needs import package_hint
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.qemu.argv import QEMU
from okubsd.qemu.rom import SIGN, probe_argv, render_rom
from okubsd.vmd.control import VmStatus
from okubsd.vmd.helper import Record

# A probe that works answers within 0.2 s; one that hangs is not worth more than this.
_PROBE_SECONDS = 2.0
_TRIES = 3

_NEEDED = (QEMU, "ssh", "mke2fs", "Xephyr", "Xvfb", "nft", "drill")

# The program that keeps the addresses of names: the one that gateways have too.
_NAMES = "images/base/files/usr/lib/okubsd/names"


def ask_vm(places: Places, name: str, rows: tuple[VmStatus, ...] | None = None) -> VmFacts:
    """Return the state of the VM called ``name``; ``rows`` is what vmd says of all, if that was asked already."""
    directory, run = places.vm(name), places.vm_run(name)
    pid = live_qemu(run)
    record = vmd.read_record(places, name)
    status = _status_of(name, record, rows)
    running = pid is not None or (status is not None and status.running)
    return VmFacts(
        name=name,
        directory=directory,
        run=run,
        qemu_pid=pid,
        display=live_display(run),
        connected=running and (run / "ssh-user").exists() and listener_pid(run / "ssh-user") is not None,
        confined=pid is not None and has_own_namespace(pid),
        has_keys=keys.have_keys(directory),
        has_home=(directory / "home.img").exists(),
        home_size=store_sizes(places, (name,)).get(name, 0),
        record=record,
        vmd=status,
        stall=why_it_stands_still(run) if pid is not None else "",
    )


def _status_of(name: str, record: Record | None, rows: tuple[VmStatus, ...] | None) -> VmStatus | None:
    """Return what vmd says of a VM that root wrote down; vmd is not asked for any other."""
    if record is None or record.backend != "vmd" or not vmd.has_vmd():
        return None
    return next((row for row in (vmd.ask_status(name) if rows is None else rows) if row.name == name), None)


def is_root() -> bool:
    """Return whether we are root."""
    return os.geteuid() == 0


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


def ask_host(places: Places, *, booting: bool, on_vmd: bool = False) -> HostFacts:
    """Return the state of the host.

    ``booting`` says whether the costly answers are needed too, ``on_vmd`` that they are about vmd instead of QEMU.
    """
    on_qemu = booting and not on_vmd
    rows = ask_rows(places) if booting and on_vmd else ()
    return HostFacts(
        root=is_root(),
        display=os.environ.get("DISPLAY", ""),
        image_files=places.images,
        images={image.name: image for image in store.all_images(places)},
        accelerator=ask_accelerator(places) if on_qemu else Accelerator("", ""),
        wall=ask_wall() if on_qemu else "",
        uplink=ask_uplink() if on_qemu else "",
        addresses=ask_addresses() if on_qemu else (),
        vmd=vmd.has_vmd(),
        seccomp=sys.platform == "linux",
        usable_memory=vmd.usable_memory() if rows or on_vmd else 0,
        taken_memory=sum(row.memory for row in rows if row.running),
        now=time.time(),
        okubsd=programs.okubsd_argv(),
        names_program=places.share / _NAMES,
        missing={name: package_hint(name, sys.platform) for name in _NEEDED if programs.find_program(name) is None},
    )


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
        answers = msgspec.json.decode((places.state / "host.json").read_bytes(), type=_Remembered)
    except (OSError, msgspec.DecodeError):
        return _Remembered(key)
    return answers if answers.key == key else _Remembered(key)


def _remember(places: Places, answers: _Remembered) -> None:
    door.make_private(places.state)
    door.write(places.state / "host.json", msgspec.json.encode(answers))


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


def disk_use(path: Path) -> int:
    """Return the bytes ``path`` takes on the disk; a sparse file takes less than its size."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def memory_of(pid: int) -> int:
    """Return the resident memory of ``pid`` in bytes, 0 where it cannot be told."""
    try:
        match = re.search(r"(?m)^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(match[1]) << 10 if match else 0
