"""Images published for people without okubsd: one disk, in every format, boots by itself."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from okubsd.images.disk import FORMATS
from tests.vm.world import World, wait_until

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def published(built: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a disk of each format, and the key of who may come in."""
    directory = tmp_path_factory.mktemp("disks")
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    options = ("--format", ",".join(FORMATS), "--home", "32M", "--authorized-key", f"{key}.pub")
    built.ok("image", "export", *options, str(directory / "term"))
    assert built.call("image", "export", *options, str(directory / "term")).code == 2, "nothing is written over"
    return directory


@pytest.mark.parametrize("form", FORMATS)
def test_a_disk_of_each_format_boots_to_its_app_and_lets_its_owner_in(
    form: str, published: Path, tmp_path: Path
) -> None:
    key, disk, serial = published / "key", published / f"term.{form}", tmp_path / "serial"
    told = json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", str(disk)], capture_output=True, check=True).stdout
    )
    assert told["format"] == form
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [
        *("qemu-system-x86_64", "-m", "192", "-display", "none", "-monitor", "none", "-serial", f"file:{serial}"),
        *("-drive", f"if=virtio,format={form},file={disk}"),
        *("-netdev", f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=n"),
    ]
    with subprocess.Popen(argv) as machine:
        try:
            wait_until(lambda: serial.exists() and b"okubsd: ready" in serial.read_bytes(), 120)
            ssh = [
                "ssh",
                "-i",
                str(key),
                "-p",
                str(port),
                "-o",
                f"UserKnownHostsFile={tmp_path}/known",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=accept-new",
                "user@127.0.0.1",
                "ls /etc/okubsd/apps; df -k /home | tail -1",
            ]
            done = subprocess.run(ssh, capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout.split()[:2] == ["term", "/dev/vda4"]
        finally:
            machine.kill()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "raw", "DISK"), "name one app image for a disk"),
        (("--format", "raw", "DISK", "base"), "name one app image for a disk"),
        (("--format", "raw", "DISK", "term", "spy"), "name one app image for a disk"),
        (("--format", "raw", "--home", "1K", "DISK", "term"), "is no size of 16M or more"),
        (("--format", "raw", "--home", "x", "DISK", "term"), "is no size of 16M or more"),
        (("--format", "raw,ova", "DISK", "term"), "'ova' is no format of a disk"),
        (("--format", "raw", "--authorized-key", "KEY", "DISK", "term"), "is no public key of ssh"),
    ],
)
def test_a_wrong_wish_for_a_disk_is_told(options: tuple[str, ...], said: str, world: World, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    words = [{"DISK": str(tmp_path / "disk"), "KEY": str(tmp_path / "key")}.get(word, word) for word in options]
    done = world.call("image", "export", *words)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err, done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key"]
