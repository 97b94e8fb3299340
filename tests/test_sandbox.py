"""The second wall in a guest: its filter run step by step, its options as bwrap(1) gets them, its place in an image."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription
from okubsd.guest import relay, sandbox
from okubsd.images.tree import made_files
from okubsd.model import Kind
from okubsd.recipe import Recipe, Sandbox

X86_64, I386 = 0xC000003E, 0x40000003
ALLOWED, EPERM, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT = 0x7FFF0000, 0x50001, 0x50026, 0x50061, 0x5005D
PROGRAM = list(struct.iter_unpack("<HBBI", sandbox.seccomp_filter()))
REFUSED = {number for group in sandbox.REFUSED.values() for number in group}


def verdict(number: int, first: int = 0, second: int = 0, third: int = 0, machine: int = X86_64) -> int:
    """Run the filter over one struct seccomp_data (linux/seccomp.h), as the kernel does, and return what it says."""
    data = struct.pack("<IIQ6Q", number, machine, 0, first, second, third, 0, 0, 0)
    program = PROGRAM
    at, loaded = 0, 0
    while True:
        code, true, false, value = program[at]
        if code == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
            at += 1
        elif code == 0x06:
            return int(value)
        else:
            assert code in (0x15, 0x35)
            at += 1 + (true if (loaded == value if code == 0x15 else loaded >= value) else false)


@given(st.integers(0, 600))
def test_each_call_is_refused_or_passes(number: int) -> None:
    expected = EPERM if number in REFUSED else ALLOWED
    assert verdict(number, first=1) == expected


@given(st.integers(0, 0xFFFFFFFF))
def test_only_four_families_of_sockets_are_there(family: int) -> None:
    assert verdict(41, first=family) == (ALLOWED if family in (1, 2, 10, 16) else EAFNOSUPPORT)


@given(st.integers(0, 0xFFFFFFFF) | st.integers(0, 40), st.sampled_from([1, 2, 10, 16]))
def test_no_app_reaches_nftables_and_what_else_netlink_leads_to(protocol: int, family: int) -> None:
    refused = family == 16 and protocol not in (0, 15)
    assert verdict(41, first=family, third=protocol) == (EPROTONOSUPPORT if refused else ALLOWED)


@given(st.integers(0, 0xFFFFFFFF))
def test_nobody_types_into_a_terminal(request: int) -> None:
    assert verdict(16, second=request) == (EPERM if request in (0x5412, 0x541C) else ALLOWED)


@given(st.integers(0, 1000))
def test_calls_of_other_machines_are_not_there(number: int) -> None:
    assert verdict(number, machine=I386) == ENOSYS
    assert verdict(0x40000000 + number) == ENOSYS


def test_the_calls_are_those_of_the_header() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("the headers of the kernel are not here")
    numbers = dict(
        reversed(line.split()[1:3]) for line in header.read_text().splitlines() if line.startswith("#define __NR_")
    )
    names = {numbers[str(number)].removeprefix("__NR_") for number in REFUSED}
    expected = """
        create_module init_module delete_module get_kernel_syms query_module kexec_load finit_module kexec_file_load
        perf_event_open bpf userfaultfd io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl
        pivot_root mount umount2 open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
        acct swapon swapoff reboot iopl ioperm quotactl nfsservctl quotactl_fd
        adjtimex settimeofday sethostname setdomainname clock_settime clock_adjtime
        syslog fanotify_init open_by_handle_at lookup_dcookie vserver vhangup
        modify_ldt _sysctl ustat uselib
    """
    assert names == set(expected.split())
    assert not names & {"clone", "unshare", "setns", "chroot", "ptrace", "seccomp", "read", "execve", "prctl"}


def words(place: Sandbox) -> list[str]:
    return sandbox.render_args(place).decode().split("\0")[:-1]


def test_an_app_sees_its_home_and_no_key() -> None:
    found = words(Sandbox())
    assert found[found.index("--bind", found.index("/run/okubsd/localtime")) :] == [
        *("--bind", "/home/user", "/home/user", "--tmpfs", "/home/user/.ssh", "--remount-ro", "/home/user/.ssh"),
        *("--chdir", "/home/user"),
    ]


def test_an_app_may_see_a_part_of_the_home_and_a_device() -> None:
    found = words(Sandbox(home=("Downloads", ".mozilla"), devices=("snd",)))
    text = " ".join(found)
    assert "--tmpfs /home/user --bind /home/user/Downloads /home/user/Downloads --bind /home/user/.mozilla" in text
    assert "--bind /home/user /home/user" not in text and "--dev-bind-try /dev/snd /dev/snd" in text


def test_an_app_without_a_network_has_a_relay_to_its_display() -> None:
    alone = parse_recipe("x", Path("r"), "from: base\napps: {a: [a]}\nsandbox: {network: no}\n")
    files = made_files(alone)
    assert "--unshare-net" in files["etc/okubsd/sandbox"][1].decode().split("\0")
    assert "etc/okubsd/no-network" in files and "--unshare-net" not in words(Sandbox())
    assert made_files(Recipe(name="base", kind=Kind.BASE))["usr/lib/okubsd/relay"] == (0o755, relay.render_program())


# In a network of their own: a display that sends back what it gets, and the relay to it.
RELAYED = """
import os, socket, subprocess, sys, threading
display = socket.create_server(("127.0.0.1", 6010))
def echo(end):
    while data := end.recv(9999):
        end.sendall(data)
    end.close()
def serve():
    while True:
        threading.Thread(target=echo, args=(display.accept()[0],)).start()
threading.Thread(target=serve, daemon=True).start()
stale = socket.socket(socket.AF_UNIX)
stale.bind(sys.argv[2])
stale.close()
print(*(subprocess.run([sys.argv[1]]).returncode for _ in range(2)))
sent = os.urandom(3 << 20)
ends = [socket.socket(socket.AF_UNIX) for _ in range(3)]
for end in ends:
    end.connect(sys.argv[2])
for end in ends:
    threading.Thread(target=end.sendall, args=(sent,)).start()
    got = b""
    while len(got) < len(sent):
        got += end.recv(1 << 16)
    print(got == sent)
    end.shutdown(socket.SHUT_WR)
    print(end.recv(1))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.spawns
@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own is root's here")
def test_the_relay_carries_both_ways_and_ends_with_each_connection(tmp_path: Path) -> None:
    program = tmp_path / "relay"
    program.write_bytes(relay.render_program(f"{tmp_path}/X10"))
    program.chmod(0o755)
    alone = ("unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    argv = (*alone, sys.executable, "-c", RELAYED, str(program), f"{tmp_path}/X10")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split("\n")[:7] == ["0 0", *3 * ["True", "b''"]], done


def test_what_an_image_says_lies_in_it_and_the_default_in_the_base() -> None:
    app = Recipe(name="x", kind=Kind.APP, base="base", apps={"a": ("a",)})
    assert not any("sandbox" in path for path in made_files(app))
    base = made_files(Recipe(name="base", kind=Kind.BASE))
    assert base["usr/lib/okubsd/sandbox"][1] == sandbox.render_args(Sandbox())
    off = parse_recipe("x", Path("r"), "from: base\napps: {a: [a]}\nsandbox: none\n")
    assert made_files(off)["etc/okubsd/no-sandbox"] == (0o644, b"")
    part = parse_recipe("x", Path("r"), "from: base\napps: {a: [a]}\nsandbox: {home: [Downloads], devices: [snd]}\n")
    assert made_files(part)["etc/okubsd/sandbox.home"] == (0o644, b"Downloads\n")
    assert made_files(part)["etc/okubsd/sandbox"][1] == sandbox.render_args(
        Sandbox(home=("Downloads",), devices=("snd",))
    )


@pytest.mark.parametrize(
    "value",
    ["yes", "[app]", "{home: [../x]}", "{home: [/etc]}", "{home: [a/../b]}", "{devices: [../sda]}", "{house: [x]}"],
)
def test_a_wrong_wall_is_one_sentence(value: str) -> None:
    with pytest.raises(BadDescription) as caught:
        parse_recipe("x", Path("r"), f"from: base\napps: {{a: [a]}}\nsandbox: {value}\n")
    assert len(caught.value.mistakes) == 1
