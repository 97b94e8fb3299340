"""Make a boot drive from a kernel and an initramfs, without root and without mounting anything."""

from __future__ import annotations

from pathlib import Path

from okubsd.errors import HostLacks, Problem
from okubsd.host import door
from okubsd.host.workshop import Workshop
from okubsd.images import bootdrive
from okubsd.model import Argv
from okubsd.needs import package_hint

DRIVE = "boot.img"

_FILES = ("vmlinuz", "initrd", "network")


def make_boot_drive(made: Path, workshop: Workshop) -> None:
    """Write ``boot.img`` beside the kernel and the initramfs in the directory ``made``, by programs of ``workshop``.

    The same files give the same bytes.  Raises HostLacks or Problem where it cannot be made.
    """
    begin = workshop.run(("cat", str(bootdrive.MBR)))
    if begin.code != 0:
        raise HostLacks("syslinux is not where images are built", package_hint("syslinux", "linux"))
    drive, config = made / DRIVE, made / "syslinux.cfg"
    mib = bootdrive.partition_mib(*((made / name).stat().st_size for name in _FILES))
    with drive.open("wb") as stream:
        stream.write(begin.out)
        stream.truncate(bootdrive.OFFSET + (mib << 20))
    config.write_bytes(bootdrive.render_config())
    workshop.put(drive, config, *(made / name for name in _FILES))
    _run(workshop, bootdrive.sfdisk_argv(drive), data=bootdrive.partition_table(mib))
    _run(workshop, bootdrive.format_argv(drive, mib))
    _run(workshop, bootdrive.loader_argv(drive))
    for source, name in ((config, "syslinux.cfg"), *((made / name, name) for name in _FILES)):
        _run(workshop, bootdrive.copy_argv(drive, source, name))
    workshop.get(drive)
    config.unlink()


def _run(workshop: Workshop, argv: Argv, data: bytes = b"") -> None:
    done = workshop.run(argv, env=bootdrive.ENVIRONMENT, data=data)
    if done.code != 0:
        raise Problem(f"making the boot drive failed: {door.reason(done)}")
