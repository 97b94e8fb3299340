"""The programs of the host that okubsd runs, and the packages that have them."""

from __future__ import annotations

import msgspec


class Need(msgspec.Struct, frozen=True):
    """A program, what for, its Debian and OpenBSD package, and whether nothing works without it.

    A package of OpenBSD's is "" for what base has, "xserv" for what comes with that set, and None for what has no
    use there; one of Debian's is "" for what has none there.
    """

    program: str
    purpose: str
    debian: str
    openbsd: str | None
    vital: bool = True


# The set of an OpenBSD release that has X servers, which no package has; its file bears the release (hier(7)).
XSERV = "xserv"
_UNPACK_XSERV = "doas tar -C / -xzphf xserv$(uname -r | tr -d .).tgz"

NEEDS = (
    Need("qemu-system-x86_64", "runs the VMs, where there is no vmd", "qemu-system-x86", None),
    Need("qemu-system-x86_64", "runs the VMs that say 'backend: qemu'", "", "qemu", vital=False),
    Need("ssh", "reaches the guests", "openssh-client", ""),
    Need("mke2fs", "makes home drives", "e2fsprogs", "e2fsprogs"),
    Need("Xvfb", "is the display of a VM, whose windows are shown on yours", "xvfb", XSERV),
    Need("xkbcomp", "gives a VM the keyboard of your display", "x11-xkb-utils", "", vital=False),
    Need("Xephyr", "shows a VM as one window (display: xephyr)", "xserver-xephyr", XSERV, vital=False),
    Need("pacat", "plays what VMs play, on PulseAudio or PipeWire", "pulseaudio-utils", None, vital=False),
    Need("notify-send", "shows notifications of VMs", "libnotify-bin", "libnotify", vital=False),
    Need("zstd", "unpacks the layers of some containers", "zstd", "zstd", vital=False),
    Need("skopeo", "fetches containers from registries", "skopeo", None, vital=False),
    Need("mmdebstrap", "builds images", "mmdebstrap", None),
    Need("mksquashfs", "packs images", "squashfs-tools", None),
    Need("syslinux", "makes boot drives", "syslinux", None),
    Need("mcopy", "fills boot drives", "mtools", None),
    Need("sfdisk", "divides boot drives", "fdisk", None),
    Need("setpriv", "ends a build with okubsd", "util-linux", None),
    Need("unshare", "gives each VM a network namespace", "util-linux", None, vital=False),
    Need("ip", "sets up the namespace", "iproute2", None, vital=False),
    Need("nft", "holds the rules of a VM", "nftables", None, vital=False),
    Need("drill", "looks up the names in rules", "ldnsutils", None, vital=False),
    Need("slirp4netns", "lets a namespace out", "slirp4netns", None, vital=False),
)


def needs_of(platform: str) -> tuple[Need, ...]:
    """Return what ``platform`` (sys.platform) has to have."""
    if not platform.startswith("openbsd"):
        return tuple(need for need in NEEDS if need.debian)
    return tuple(need for need in NEEDS if need.openbsd is not None)


def package_of(need: Need, platform: str) -> str:
    """Return the package that has what ``need`` names on ``platform``, "" where base has it."""
    return (need.openbsd or "") if platform.startswith("openbsd") else need.debian


def install_command(packages: list[str], platform: str) -> str:
    """Return the command that installs ``packages`` on ``platform`` (sys.platform)."""
    words = sorted(set(packages))
    if not platform.startswith("openbsd"):
        return f"sudo apt-get install {' '.join(words)}"
    ported = " ".join(word for word in words if word != XSERV)
    commands = [f"doas pkg_add {ported}"] * bool(ported) + [_UNPACK_XSERV] * (XSERV in words)
    return "; ".join(commands)


def package_hint(program: str, platform: str) -> str:
    """Return the command that installs ``program`` on ``platform``, or where to look for it."""
    for need in NEEDS:
        package = package_of(need, platform)
        if need.program == program and package:
            return install_command([package], platform)
    return "'okubsd doctor' says what is missing"
