"""Be every program of the simulated hosts, and okubsd on them: a process for each of the two, which forks for each call.

A program of the simulator is called thousands of times, and starting Python for it takes ten times what it does.  So a
client of some lines (CLIENT) asks this server by a unix socket.  The child that answers has the client's descriptors,
directory, environment and mode of new files, and ends with it.  Where a program of the simulator would become another
one, its client becomes that.  A client that finds no server runs the program by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import io
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

CHECKOUT = Path(__file__).resolve().parents[2]

# What a call of okubsd on a simulated host imports, in the end.
_PACKAGES = ("cli", "config", "host", "images", "netif", "pf", "plan", "vmd", "vpn")

# pidfd_getfd(2); the number is the same on every kind of machine.
_PIDFD_GETFD = 438

# perl(1) is on every Debian and starts in two milliseconds.  @NAME@ and @ROOT@ are filled in, @ELSE@ is a list.
CLIENT = r"""#!/usr/bin/perl
# The program @NAME@ of the simulated host, asked of tests/openbsd/server.py.
socket(S, 1, 1, 0);
unless (connect(S, pack("S a*", 1, "@ROOT@/sim/@SERVER@"))) {
    $ENV{SIM_ROOT} = "@ROOT@";
    exec(@ELSE@, @ARGV);
}
my $all = join("\0", "@NAME@", "@ROOT@", umask, @ARGV);
syswrite(S, pack("N", length $all) . $all);
sub take { my ($wanted, $got) = (shift, ""); while (length $got < $wanted) { sysread(S, $got, $wanted - length $got, length $got) or exit 98 } $got }
my ($kind, $count, @words) = split(/\0/, take(unpack("N", take(4))), -1);
if ($kind eq "exit") { exit $count }
if ($kind eq "signal") { kill $count, $$; sleep 5; exit 98 }
my ($path, @argv) = splice(@words, 0, $count + 1);
%ENV = map { split(/=/, $_, 2) } @words;
exec { $path } @argv or exit 97;
"""


def packed(*words: str) -> bytes:
    """Return a message of either side: its length, and its words with zero bytes between."""
    data = "\0".join(words).encode(errors="surrogateescape")
    return struct.pack("!I", len(data)) + data


def received(talk: socket.socket) -> list[str]:
    """Return the words of a message; none where the other end is gone."""
    with talk.makefile("rb") as stream:
        head = stream.read(4)
        data = stream.read(struct.unpack("!I", head)[0]) if len(head) == 4 else b""
    return data.decode(errors="surrogateescape").split("\0") if data else []


class Server:
    """The socket, and the children that answer calls: which client each works for."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(self.listener, selectors.EVENT_READ)
        # Whoever started us holds the other end of our standard input.
        self.waiting.register(0, selectors.EVENT_READ)

    def serve(self) -> None:
        while True:
            # One at a time: what ends a call takes away what else would tell of it.
            for key, _ in self.waiting.select()[:1]:
                if key.fileobj == 0:
                    return
                if key.fileobj is self.listener:
                    self._begin(self.listener.accept()[0])
                else:
                    self._end(*key.data)

    def _begin(self, talk: socket.socket) -> None:
        words = received(talk)
        if not words:
            talk.close()
            return
        pid = os.fork()
        if pid == 0:
            self.listener.close()
            answer(talk, words)
        held = os.pidfd_open(pid)
        for end in (talk, held):
            self.waiting.register(end, selectors.EVENT_READ, (talk, held, pid))

    def _end(self, talk: socket.socket, held: int, pid: int) -> None:
        """Tell a client how its child has ended; a child whose client is gone is killed, and what it began goes on."""
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(OSError):
            talk.sendall(packed("exit", str(code)) if code >= 0 else packed("signal", str(-code)))
        for end in (talk, held):
            self.waiting.unregister(end)
        talk.close()
        os.close(held)


def answer(talk: socket.socket, words: list[str]) -> NoReturn:
    """Be the program that a client asks for, in its place, and end."""
    name, root, umask, *args = words
    try:
        os.setsid()
        stand_in(talk, int(umask))
        os.environ["SIM_ROOT"] = root
        at_home(Path(root), os.environ.get("SIM_USER", "root"))
        code = ended(lambda: perform(name, args, talk))
    except BaseException:
        traceback.print_exc()
        code = 96
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def stand_in(talk: socket.socket, umask: int) -> None:
    """Take over what the client has: its first three descriptors, its directory, its environment."""
    pid = struct.unpack("iII", talk.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    given = [
        pair.split("=", 1) for pair in os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0") if "=" in pair
    ]
    os.environ.clear()
    os.environ.update(dict(given))
    os.chdir(f"/proc/{pid}/cwd")
    os.umask(umask)
    held = os.pidfd_open(pid)
    for number in range(3):
        taken = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, held, number, 0)
        if taken < 0:
            if ctypes.get_errno() != errno.EBADF:
                raise OSError(ctypes.get_errno(), "what the client has open cannot be had")
            taken = os.open(os.devnull, os.O_RDWR)
        os.dup2(taken, number)
        os.close(taken)
    os.close(held)
    sys.stdin, sys.stdout = (
        io.TextIOWrapper(io.FileIO(number, mode, closefd=False)) for number, mode in ((0, "r"), (1, "w"))
    )
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="backslashreplace", write_through=True)


def perform(name: str, args: list[str], talk: socket.socket) -> None:
    """Run okubsd, or the program ``name`` of the simulator, which may become another program: then the client does."""
    if name == "__okubsd":
        sys.argv = ["okubsd", *args]
        runpy.run_module(
            "okubsd" if os.environ.get("SIM_USER") == "root" else "tests.openbsd.as_user", run_name="__main__"
        )
        return

    def become(path: Any, argv: list[str], env: Any = None) -> NoReturn:
        pairs = (f"{key}={value}" for key, value in (os.environ if env is None else env).items())
        sys.stdout.flush()
        talk.sendall(packed("exec", str(len(argv)), str(path), *argv, *pairs))
        os._exit(0)

    os.execv = os.execvp = os.execve = become  # type: ignore[assignment]
    sys.argv = [name, name, *args]
    importlib.import_module("sim.__main__")


def ended(run: Any) -> int:
    """Run a program to its end and return its exit code, as the interpreter would."""
    import atexit

    try:
        run()
        code: Any = 0
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return int(code or 0)


def at_home(root: Path, user: str) -> None:
    """Have the simulator's modules be those of a host and of who calls: they read that when they were imported."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith("sim."):
            known = {"ROOT": root, "USER": user, "STATE": root / "sim/state.json"}
            vars(module).update({key: value for key, value in known.items() if key in vars(module)})


def preload_simulator() -> None:
    """Import what the simulator's programs are and use."""
    os.environ["SIM_ROOT"] = os.devnull
    from tests.openbsd.sim.install import PROGRAMS

    for name in {*PROGRAMS.values(), "state"}:
        importlib.import_module(f"sim.{name}")
    for name in ("config.parse_y", "pf.grammar", "pf.rule_ends", "vmd.conf", "vmd.grammar", "vmd.qcow2"):
        importlib.import_module(f"okubsd.{name}")


def preload_okubsd() -> None:
    """Import what a call of okubsd will."""
    for package in _PACKAGES:
        for found in pkgutil.walk_packages([f"{CHECKOUT}/okubsd/{package}"], f"okubsd.{package}."):
            if ".glass" not in found.name:
                importlib.import_module(found.name)
    for name in ("msgspec", "rich.table", "yaml"):
        importlib.import_module(name)


_STARTED: list[Path] = []


def servers() -> Path:
    """Return the directory with the sockets of this process's servers, which end with it."""
    import atexit
    import shutil
    import tempfile

    if not _STARTED:
        directory = Path(tempfile.mkdtemp(prefix="sim-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/tests/openbsd:{CHECKOUT}"}
        for name in _PRELOAD:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.openbsd.server", str(directory / name)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, cwd=CHECKOUT, env=env, text=True, start_new_session=True,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            _PROCESSES.append(process)
        _STARTED.append(directory)
    return _STARTED[0]


_PROCESSES: list[Any] = []
# The two servers by the names of their sockets, and what each imports beforehand.
_PRELOAD = {"simulator": preload_simulator, "okubsd": preload_okubsd}


if __name__ == "__main__":
    import gc

    path = Path(sys.argv[1])
    _PRELOAD[path.name]()
    gc.freeze()
    made = Server(path)
    print("ready", flush=True)
    os.dup2(2, 1)
    made.serve()
