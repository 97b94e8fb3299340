"""Write an app with all that it needs as one disk that boots by itself, for people without okubsd."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from okubsd.errors import HostLacks
from okubsd.guest.identity import Lease, Secrets, render_identity
from okubsd.host import bootdrive, door, programs, store
from okubsd.host.places import Places
from okubsd.images import disk
from okubsd.images.bootdrive import render_config, with_config
from okubsd.images.commands import make_home_argv
from okubsd.layout import SQUASHFS
from okubsd.model import Guard, Image, Vm
from okubsd.needs import package_hint

_MIB = 1 << 20
# Writing a disk and turning it into another format, in seconds.
_SECONDS = 1800


def export_disk(
    places: Places, images: tuple[Image, Image, Image], targets: Mapping[str, Path], home: int, login: str,
    report: Callable[[str], None],
) -> None:  # fmt: skip
    """Write the ``images``, boot, base and app, as a disk to each of ``targets``, by its format, whole or not at all.

    ``home`` is the size of its home in bytes, ``login`` an authorized_keys line of who may come in by ssh, "" for
    nobody.  Raises HostLacks without qemu-img, Problem where an image is damaged.
    """
    if set(targets) != {"raw"} and programs.find_program("qemu-img") is None:
        raise HostLacks("qemu-img is not on this host", package_hint("qemu-img", "linux"))
    store.verify(places, images, places.state)
    store.check_fit(places, images)
    first = next(iter(targets.values()))
    with tempfile.TemporaryDirectory(dir=first.absolute().parent, prefix=f".{first.name}.") as name:
        raw, made = Path(name) / "raw", Path(name) / "made"
        report(f"{images[2].name}: writing the disk")
        _write_raw(places, images, raw, home, login)
        # What is turned into others goes last.
        for form, target in sorted(targets.items(), key=lambda pair: pair[0] == "raw"):
            if form != "raw":
                report(f"{images[2].name}: turning it into {form}")
                argv = ("qemu-img", "convert", "-f", "raw", "-O", form, str(raw), str(made))
                door.must(argv, f"turning the disk into {form}", timeout=_SECONDS)
            _put(raw if form == "raw" else made, target)


def _put(whole: Path, target: Path) -> None:
    whole.chmod(0o644)
    door.sync(whole)
    whole.replace(target)


def _write_raw(places: Places, images: tuple[Image, Image, Image], raw: Path, home: int, login: str) -> None:
    boot, base, app = images
    start = store.part_path(places, boot, bootdrive.DRIVE).read_bytes()
    drives = [store.part_path(places, image, SQUASHFS) for image in (base, app)]
    spots = disk.places_of(len(start), *(path.stat().st_size for path in drives), home + _MIB)
    start = with_config(start, render_config(kernel=disk.KERNEL))
    with raw.open("wb") as stream:
        stream.write(disk.with_partitions(start[:512], spots) + start[512:])
        for path, (at, _) in zip(drives, spots, strict=False):
            stream.seek(at)
            with path.open("rb") as source:
                shutil.copyfileobj(source, stream, _MIB)
        at, size = spots[-1]
        stream.seek(at + size - _MIB)
        stream.write(_identity(app, login).ljust(_MIB, b"\0"))
    _lay_home(raw, at, size - _MIB)


def _lay_home(raw: Path, at: int, size: int) -> None:
    """Put an empty home of ``size`` bytes at ``at``; what is not written stays a hole."""
    made = raw.with_name("home")
    with made.open("wb") as stream:
        stream.truncate(size)
    door.must(make_home_argv(made), "making the home of the disk", timeout=120)
    with made.open("rb") as source, raw.open("r+b") as stream:
        for offset in range(0, size, _MIB):
            chunk = source.read(_MIB)
            if chunk.strip(b"\0"):
                stream.seek(at + offset)
                stream.write(chunk)
    made.unlink()


def _identity(app: Image, login: str) -> bytes:
    """Return what tells the guest who it is: each disk that is written has a key of its own."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    host = Ed25519PrivateKey.generate()
    kept = Secrets(host.private_bytes_raw(), host.public_key().public_bytes_raw(), login, secrets.token_bytes(16))
    vm = Vm(name=app.name, image=app.name, keep=True, guard=Guard.OFF)
    return render_identity(vm, Lease("dhcp", "dhcp"), kept, "poweroff", consoles="ttyS0 tty1")
