"""The programs of the host that okubsd runs, and the packages that have them."""

from __future__ import annotations

import msgspec


class Need(msgspec.Struct, frozen=True):
    """A program, what for, its Debian and OpenBSD package, and whether nothing works without it."""

    program: str
    purpose: str
    debian: str
    openbsd: str
    vital: bool = True


NEEDS = (
    Need("qemu-system-x86_64", "runs the VMs, where there is no vmd", "qemu-system-x86", "qemu"),
    Need("ssh", "reaches the guests", "openssh-client", ""),
    Need("mke2fs", "makes home drives", "e2fsprogs", "e2fsprogs"),
    Need("Xephyr", "shows a VM in a window of your display", "xserver-xephyr", ""),
    Need("Xvfb", "shows a VM on a display nobody sees (--headless)", "xvfb", "", vital=False),
    Need("mmdebstrap", "builds images", "mmdebstrap", ""),
    Need("mksquashfs", "packs images", "squashfs-tools", "squashfs-tools"),
    Need("syslinux", "makes boot drives", "syslinux", ""),
    Need("mcopy", "fills boot drives", "mtools", "mtools"),
    Need("sfdisk", "divides boot drives", "fdisk", ""),
    Need("setpriv", "ends a build with okubsd", "util-linux", ""),
    Need("unshare", "gives each VM a network namespace", "util-linux", "", vital=False),
    Need("ip", "sets up the namespace", "iproute2", "", vital=False),
    Need("nft", "holds the rules of a VM", "nftables", "", vital=False),
    Need("drill", "looks up the names in rules", "ldnsutils", "", vital=False),
    Need("slirp4netns", "lets a namespace out", "slirp4netns", "", vital=False),
)


def install_command(packages: list[str], platform: str) -> str:
    """Return the command that installs ``packages`` on ``platform`` (sys.platform)."""
    words = " ".join(sorted(set(packages)))
    return f"doas pkg_add {words}" if platform.startswith("openbsd") else f"sudo apt-get install {words}"


def package_hint(program: str, platform: str) -> str:
    """Return the command that installs ``program`` on ``platform``, or where to look for it."""
    for need in NEEDS:
        package = need.openbsd if platform.startswith("openbsd") else need.debian
        if need.program == program and package:
            return install_command([package], platform)
    return "'okubsd doctor' says what is missing"
