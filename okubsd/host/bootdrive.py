"""Make a boot drive from a kernel and an initramfs, without root and without mounting anything."""

from __future__ import annotations

from pathlib import Path

from okubsd.errors import HostLacks
from okubsd.host import door
from okubsd.images import bootdrive
from okubsd.needs import package_hint

DRIVE = "boot.img"

_FILES = ("vmlinuz", "initrd", "network")


def make_boot_drive(made: Path) -> None:
    """Write ``boot.img`` beside the kernel and the two initramfs in the directory ``made``.

    The same files give the same bytes.  Raises HostLacks or Problem where it cannot be made.
    """
    if not bootdrive.MBR.is_file():
        raise HostLacks("syslinux is not on this host", package_hint("syslinux", "linux"))
    drive, config = made / DRIVE, made / "syslinux.cfg"
    mib = bootdrive.partition_mib(*((made / name).stat().st_size for name in _FILES))
    with drive.open("wb") as stream:
        stream.write(bootdrive.MBR.read_bytes())
        stream.truncate(bootdrive.OFFSET + (mib << 20))
    config.write_bytes(bootdrive.render_config())
    _run(bootdrive.sfdisk_argv(drive), data=bootdrive.partition_table(mib))
    _run(bootdrive.format_argv(drive, mib))
    _run(bootdrive.loader_argv(drive))
    for source, name in ((config, "syslinux.cfg"), *((made / name, name) for name in _FILES)):
        _run(bootdrive.copy_argv(drive, source, name))
    config.unlink()


def _run(argv: tuple[str, ...], data: bytes = b"") -> None:
    door.must(argv, "making the boot drive", timeout=60, data=data, env=bootdrive.ENVIRONMENT)
