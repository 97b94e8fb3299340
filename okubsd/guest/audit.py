"""How hard a guest is: what is asked of it, and what its answer is worth (admin-guide/sysctl; the list of KSPP)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from okubsd.model import Argv
from okubsd.recipe import Recipe

# What the kernel is to refuse, below /proc/sys: the least good value, and why; a kernel may not have it.
KNOBS: dict[str, tuple[int, str]] = {
    "kernel/kptr_restrict": (2, "addresses of the kernel are told to nobody"),
    "kernel/dmesg_restrict": (1, "its messages are told to root only"),
    "kernel/unprivileged_bpf_disabled": (1, "users load no programs into it"),
    "kernel/modules_disabled": (1, "it loads no more code of its own"),
    "kernel/kexec_load_disabled": (1, "it is not replaced by another"),
    "kernel/perf_event_paranoid": (3, "users do not watch it"),
    "kernel/yama/ptrace_scope": (1, "a program traces its children only"),
    "kernel/randomize_va_space": (2, "programs lie at places that nobody knows"),
    "net/core/bpf_jit_harden": (2, "filters of packets hide no code"),
    "fs/protected_hardlinks": (1, "links lead to nobody else's files"),
    "fs/protected_symlinks": (1, "links in /tmp are followed by their owner only"),
    "fs/protected_fifos": (1, "pipes in /tmp are opened by their owner only"),
    "fs/protected_regular": (1, "files in /tmp are opened by their owner only"),
}
# Knobs that have to be off.
OFF: dict[str, str] = {
    "kernel/sysrq": "no key reaches the kernel",
    "vm/unprivileged_userfaultfd": "users do not handle its page faults",
    "fs/suid_dumpable": "no privileged program leaves its memory on the disk",
}
# How the file systems have to be mounted, where they are.
MOUNTS: dict[str, tuple[str, ...]] = {
    "/home": ("nosuid", "nodev"), "/tmp": ("nosuid", "nodev"), "/dev/shm": ("nosuid", "nodev"),
    "/run": ("nosuid", "nodev"), "/proc": ("nosuid", "nodev", "noexec"), "/sys": ("nosuid", "nodev", "noexec"),
}  # fmt: skip
# How its kernel has to be configured: what it checks of itself, and what it does not have (KSPP, recommended settings).
OPTIONS: dict[str, tuple[str, str]] = {
    "STRICT_KERNEL_RWX": ("y", "its code is not written to"),
    "STRICT_MODULE_RWX": ("y", "code of its modules is not written to"),
    "VMAP_STACK": ("y", "a stack that overflows is noticed"),
    "STACKPROTECTOR_STRONG": ("y", "a stack that is written over is noticed"),
    "RANDOMIZE_BASE": ("y", "it lies at a place that nobody knows"),
    "RANDOMIZE_MEMORY": ("y", "so does its memory"),
    "RANDOMIZE_KSTACK_OFFSET_DEFAULT": ("y", "so do its stacks, from call to call"),
    "SLAB_FREELIST_RANDOM": ("y", "what is freed is not given out in order"),
    "SLAB_FREELIST_HARDENED": ("y", "lists of what is free are checked"),
    "SHUFFLE_PAGE_ALLOCATOR": ("y", "pages are not given out in order"),
    "INIT_ON_ALLOC_DEFAULT_ON": ("y", "what is given out is empty"),
    "HARDENED_USERCOPY": ("y", "copies from and to programs are bounded"),
    "FORTIFY_SOURCE": ("y", "copies inside of it are bounded"),
    "SCHED_STACK_END_CHECK": ("y", "the end of a stack is looked at"),
    "DEBUG_LIST": ("y", "its lists are checked"),
    "BUG_ON_DATA_CORRUPTION": ("y", "it ends rather than go on damaged"),
    "SECCOMP_FILTER": ("y", "programs can have filters"),
    "SECURITY_YAMA": ("y", "programs do not trace each other"),
    "SECURITY_LANDLOCK": ("y", "programs can give up files"),
    "SECURITY_LOCKDOWN_LSM": ("y", "root can be kept out of it"),
    "PAGE_TABLE_ISOLATION": ("y", "programs do not guess its memory"),
    "RETPOLINE": ("y", "programs do not guide its guesses"),
    "MITIGATION_SPECTRE_BHI": ("y", "nor by the history of branches"),
    "MITIGATION_RFDS": ("y", "old registers are not left to guess from"),
    "DEBUG_NOTIFIERS": ("y", "lists of what it calls are checked"),
    "X86_UMIP": ("y", "programs do not learn where its tables lie"),
    "SECURITY_DMESG_RESTRICT": ("y", "its messages are root's from the first moment"),
    "STATIC_USERMODEHELPER": ("y", "it starts no program by itself"),
    "SYN_COOKIES": ("y", "a flood of connections is borne"),
    "DEVMEM": ("n", "there is no file of the machine's memory"),
    "DEVKMEM": ("n", "there is no file of its memory"),
    "PROC_KCORE": ("n", "there is no file of its memory for a debugger"),
    "LEGACY_VSYSCALL_NONE": ("y", "no calls lie at a known place"),
    "COMPAT_BRK": ("n", "the heap lies at a place that nobody knows"),
    "INET_DIAG": ("n", "sockets are not told of"),
    "MODIFY_LDT_SYSCALL": ("n", "programs do not change segments"),
    "KEXEC": ("n", "it cannot be replaced"),
    "HIBERNATION": ("n", "its memory is not written to a disk"),
    "BINFMT_MISC": ("n", "no other formats of programs are taught to it"),
    "X86_X32_ABI": ("n", "calls have one form only"),
    "IO_URING": ("n", "there is no second way to make calls"),
    "BPF_SYSCALL": ("n", "nobody loads programs into it"),
    "MODULES": ("n", "it loads no code"),
    "MAGIC_SYSRQ": ("n", "no key reaches it"),
}
# What is of no matter where it loads no code.
_OF_MODULES = frozenset({"STRICT_MODULE_RWX"})
# Packages are old after so many days.
_OLD_DAYS = 30
# The user whose programs apps are, and the port that is open for the host.
_USER, _SSH = 1000, 22
# The parent of all that belongs to the kernel itself.
_KERNEL = "2"
_MOST_NAMED = 5

_SCRIPT = """
cd /proc/sys && for knob; do [ -e $knob ] && echo "knob $knob $(cat $knob)"; done
sed 's/^/mount /' /proc/mounts
for path in $(find / -xdev -type f -perm /6000 2>/dev/null); do echo "setuid $path"; done
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ here _ state _; do
	[ "$state" = 0A ] && echo "port ${here##*:} ${here%%:*}"
done
cat /proc/net/udp /proc/net/udp6 2>/dev/null | while read -r _ here _ state _; do
	[ "$state" = 07 ] && echo "port ${here##*:} ${here%%:*}"
done
own=$(readlink /proc/1/ns/user)
for process in /proc/[0-9]*; do
	name= space=apart
	read -r name <$process/comm
	[ "$(readlink $process/ns/user)" = "$own" ] && space=own
	[ "$name" ] && echo "process ${process#/proc/} $space $(sed -n -e 's/^PPid:.//p' \\
		-e 's/^Uid:.\\([0-9]*\\).*/\\1/p' -e 's/^CapEff:.//p' -e 's/^NoNewPrivs:.//p' -e 's/^Seccomp:.//p' \\
		$process/status | tr '\\n' ' ')$name"
done 2>/dev/null
cd /sys/devices/system/cpu/vulnerabilities && for hole in *; do echo "hole $hole $(cat $hole)"; done
true
"""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: what it is called, whether it is good, and what was seen."""

    name: str
    good: bool
    seen: str


def gather_command() -> Argv:
    """Return what root of the guest runs to tell all that audit() wants to know."""
    return ("sh", "-c", _SCRIPT, "audit", *KNOBS, *OFF)


def audit(text: str, archive: int, now: float, allowed: Collection[str] = ()) -> list[Check]:
    """Return what ``text``, the answer of a guest, is worth.

    ``archive`` is the date of its packages and ``now`` the time, in seconds since the epoch; 0 where it is not known.
    ``allowed`` are the paths of programs that may be setuid.
    Raises ValueError where the answer is none.
    """
    lines = [line.split() for line in text.splitlines()]
    of = {kind: [line[1:] for line in lines if line[:1] == [kind] and len(line) > 1] for kind in _KINDS}
    if not of["knob"] or not of["process"]:
        raise ValueError("does not tell what it is asked")
    return [
        *_knobs({line[0]: line[1] for line in of["knob"] if len(line) > 1}),
        *_mounts({line[1]: line[3].split(",") for line in of["mount"] if len(line) > 3}),
        _none("setuid programs", [line[0] for line in of["setuid"] if line[0] not in allowed]),
        _none("ports for others", sorted(set(_open_ports(of["port"])))),
        *_processes([_Process(*line[:8]) for line in of["process"] if len(line) >= 8]),
        _none(
            "holes of the processor", [line[0] for line in of["hole"] if line[1:] and line[1].startswith("Vulnerable")]
        ),
        *([] if not archive else [_age(archive, now)]),
    ]


_KINDS = ("knob", "mount", "setuid", "port", "process", "hole")


def score(checks: list[Check]) -> int:
    """Return how many of the ``checks`` are good, in percent."""
    return round(100 * sum(check.good for check in checks) / max(1, len(checks)))


# What an image does not choose: one where these are weak is refused.  Mitigations are the processor's, and what
# a guest listens on is its services'.
_WALLS = frozenset({"capabilities of the user's", "setuid programs", "who could gain privileges"})


def self_check(checks: list[Check], recipe: Recipe) -> list[str]:
    """Return which walls inside a guest of ``recipe`` do not stand, each in words; nothing where all do."""
    needed = _WALLS | {name.replace("/", ".") for name in (*KNOBS, *OFF)} | {f"mount {place}" for place in MOUNTS}
    needed |= {"apps behind a filter"} if recipe.sandbox.on and recipe.apps else set()
    # A kernel may lack a knob; everything else is told by every guest.
    told = {check.name for check in checks}
    silent = [name for name in sorted(needed - told) if not name.startswith(_OF_KNOBS)]
    weak = [f"{check.name}: {check.seen}" for check in checks if check.name in needed and not check.good]
    return [*weak, *(f"{name}: not told" for name in silent)]


_OF_KNOBS = ("kernel.", "net.", "fs.", "vm.")


def kernel_checks(config: str) -> list[Check]:
    """Return what the configuration of a kernel (its .config) is worth."""
    has = {
        line.partition("=")[0]
        for line in config.splitlines()
        if line.startswith("CONFIG_") and line[-2:] in ("=y", "=m")
    }
    checks = []
    for option, (wanted, why) in OPTIONS.items():
        good = (f"CONFIG_{option}" in has) == (wanted == "y") or (option in _OF_MODULES and "CONFIG_MODULES" not in has)
        state = "is not set" if wanted == "y" else "is set"
        checks.append(Check(f"CONFIG_{option}", good, why if good else f"{state}, so not: {why}"))
    return checks


def _knobs(found: Mapping[str, str]) -> Iterator[Check]:
    for name, (least, why) in KNOBS.items():
        if name in found:
            good = found[name].isdigit() and int(found[name]) >= least
            yield Check(name.replace("/", "."), good, why if good else f"{found[name]}, so not: {why}")
    for name, why in OFF.items():
        if name in found:
            good = found[name] == "0"
            yield Check(name.replace("/", "."), good, why if good else f"{found[name]}, so not: {why}")


def _mounts(found: Mapping[str, list[str]]) -> Iterator[Check]:
    for place, wanted in MOUNTS.items():
        if place in found:
            lacking = [option for option in wanted if option not in found[place]]
            seen = f"without {', '.join(lacking)}" if lacking else ", ".join(wanted)
            yield Check(f"mount {place}", not lacking, seen)


def _open_ports(rows: list[list[str]]) -> Iterator[str]:
    """Yield the ports that listen for more than the guest itself; 0100007F is 127.0.0.1, in the host's order."""
    for row in rows:
        port, address = int(row[0], 16), row[1] if len(row) > 1 else ""
        of_itself = address in ("0100007F", f"{'0' * 24}01000000")
        if not of_itself and port != _SSH:
            yield str(port)


class _Process(NamedTuple):
    """A process as the guest tells it, in words; ``space`` says whether its user namespace is the guest's "own"."""

    number: str
    space: str
    parent: str
    user: str
    capabilities: str
    no_new_privileges: str
    seccomp: str
    name: str


def _processes(found: list[_Process]) -> Iterator[Check]:
    """Judge the processes of the user; the kernel's are nobody's, and who waits beside the apps is none of them."""
    users = [one for one in found if one.user == str(_USER) and _KERNEL not in (one.number, one.parent)]
    apps = [one for one in users if one.seccomp == "2" and one.name not in _BESIDE]
    yield Check("apps behind a filter", bool(apps), f"{len(apps)} processes of {len(users)} of the user's")
    # In a namespace of its own, which browsers make for their sandboxes, a process has them over nothing of the guest.
    capable = [one.name for one in users if one.space == "own" and int(one.capabilities, 16)]
    yield _none("capabilities of the user's", capable)
    gaining = [one.name for one in users if one.no_new_privileges != "1" and one.name not in _OF_SSH]
    yield _none("who could gain privileges", gaining)


# A copy that is being made, and ssh's own end of a call; what is behind the wall, too, and shows no app.
_OF_SSH = ("sftp-server", "dropbear")
_BESIDE = ("matchbox-window", "bwrap", "dbus-daemon", "dunst", "pulseaudio")


def _none(name: str, found: list[str]) -> Check:
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return Check(name, not found, ", ".join(found[:_MOST_NAMED]) + more if found else "none")


def _age(archive: int, now: float) -> Check:
    days = max(0, int((now - archive) / 86400))
    return Check("age of packages", days <= _OLD_DAYS, f"{days} days")
