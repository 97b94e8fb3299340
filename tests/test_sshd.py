"""A guest's ssh server that means it badly: every call into it ends in its time, and says so in a sentence."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from okubsd.errors import Problem
from okubsd.guest.identity import host_key_line
from okubsd.guest.ssh import render_ssh_config, ssh_argv
from okubsd.host import door, keys
from okubsd.host.copying import Progress, fetch, spoken_by
from okubsd.model import Argv, Vm

# A server whose client has gone has nobody to tell.
_GONE = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
pytestmark = [pytest.mark.spawns, _GONE]
VM = Vm(name="term", image="term")


class Server(paramiko.ServerInterface):
    """Lets everybody in, and does with a call what the kind says."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if self.kind != "refuses" else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return (
            paramiko.OPEN_SUCCEEDED if self.kind != "no channel" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        )

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self.act, args=(channel,), daemon=True).start()
        return True

    check_channel_subsystem_request = check_channel_exec_request  # type: ignore[assignment]

    def act(self, channel: paramiko.Channel) -> None:
        match self.kind:
            case "floods":
                while True:
                    channel.sendall(b"x" * 32768)
            case "floods errors":
                while True:
                    channel.sendall_stderr(b"\x1b]0;owned\x07" * 1000)
            case "is silent":
                time.sleep(600)
            case "closes":
                channel.close()
            case "hangs up":
                channel.get_transport().close()
            case "drips":
                while True:
                    channel.sendall(b"x")
                    time.sleep(0.2)
            case _:
                channel.sendall(b"hello\n")
                channel.send_exit_status(0)
                channel.close()


class Listener:
    """Listens on the loopback, as QEMU does for a guest."""

    def __init__(self, kind: str, key: paramiko.PKey) -> None:
        self.kind, self.key = kind, key
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        if self.kind == "says nothing":
            time.sleep(600)
        elif self.kind == "talks without end":
            while True:
                connection.sendall(b"x" * 200 + b"\r\n")
        elif self.kind == "stalls the key exchange":
            connection.sendall(b"SSH-2.0-dropbear\r\n")
            time.sleep(600)
        else:
            transport = paramiko.Transport(connection)
            transport.add_server_key(self.key)
            transport.start_server(server=Server(self.kind))


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Callable[[str], Argv]]:
    """Return what starts a server of a kind, and the call of ssh(1) to it."""
    keys.make_keys(tmp_path, VM.name)
    (tmp_path / "run").mkdir()
    host = paramiko.Ed25519Key.generate() if hasattr(paramiko.Ed25519Key, "generate") else _ed25519(tmp_path)
    (tmp_path / "known_hosts").write_text(host_key_line(VM.name, host.asbytes()[-32:]))
    listeners: list[Listener] = []

    def start(kind: str) -> Argv:
        listeners.append(Listener(kind, host))
        config = render_ssh_config(VM, "127.0.0.1", listeners[-1].port, tmp_path, tmp_path / "run")
        (tmp_path / "run/ssh_config").write_text(config)
        alone = ("-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ConnectTimeout=3")
        return ssh_argv(VM, tmp_path / "run", *alone)

    yield start
    for listener in listeners:
        listener.socket.close()


def _ed25519(directory: Path) -> paramiko.PKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (directory / "server").write_bytes(made)
    return paramiko.Ed25519Key.from_private_key_file(str(directory / "server"))


def test_an_honest_server_is_heard(guest: Callable[[str], Argv]) -> None:
    done = door.ask((*guest("answers"), "x"), timeout=30)
    assert done.code == 0 and done.out == b"hello\n"


KINDS = ("floods", "floods errors", "is silent", "closes", "hangs up", "drips", "no channel", "refuses", "says nothing",
         "talks without end", "stalls the key exchange")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_ends_whatever_the_server_does(kind: str, guest: Callable[[str], Argv]) -> None:
    done = door.ask((*guest(kind), "x"), timeout=5, largest=1 << 20)
    assert done.code != 0 and len(done.out) <= 2 << 20 and len(done.err) <= 2 << 20
    assert door.reason(done).isprintable()


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_ends_whatever_the_server_does(
    kind: str, guest: Callable[[str], Argv], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okubsd.host.copying.files.ANSWER_SECONDS", 5.0)
    argv = (*guest(kind), "-T", "-s", "sftp")
    words = (*argv[: argv.index("term")], "-T", "-s", "term", "sftp")
    with pytest.raises(Problem) as error, spoken_by(words, VM, lambda *_: door.Done(door.GAVE_UP)) as made:
        fetch(made, b"x", tmp_path / "got", Progress())
    assert error.value.sentence.isprintable() and not (tmp_path / "got").exists()
