"""The words of okubsd: frozen values that every layer speaks.  Imports nothing of ours but rules."""

from __future__ import annotations

import enum
from pathlib import Path

import msgspec

from okubsd.rules import Bandwidth, Rule

Argv = tuple[str, ...]


class Slot(enum.StrEnum):
    """What is known only while a plan runs; an argv holds it as this word."""

    QEMU_PID = "<qemu-pid>"
    DISPLAY = "<display>"
    SCREEN = "<screen>"
    DISPLAY_SOCKET = "<display-socket>"
    REPORT_FD = "<report-fd>"
    EXIT_FD = "<exit-fd>"
    GUEST = "<guest-address>"


class NetworkKind(enum.StrEnum):
    """What becomes of the packets of a network; what differs by kind is in _KINDS."""

    NONE = "none"
    NAT = "nat"
    WIREGUARD = "wireguard"
    OPENVPN = "openvpn"
    GATEWAY = "gateway"
    SWITCH = "switch"

    @property
    def is_tunnel(self) -> bool:
        """Return whether it leads through a tunnel, and nowhere else."""
        return _KINDS[self].tunnel

    @property
    def interface(self) -> str:
        """Return the driver of its interface on OpenBSD, "" where it has none of its own."""
        return _KINDS[self].interface

    @property
    def openbsd_only(self) -> str:
        """Return what it is called where it takes OpenBSD, "" where every host can have it."""
        return _KINDS[self].openbsd_only

    @property
    def sysctls(self) -> tuple[str, ...]:
        """Return what has to be 1 on an OpenBSD host for it (sysctl(2))."""
        return (*(("net.inet.ip.forwarding",) if self.leads_out else ()), *_KINDS[self].sysctls)

    @property
    def leads_out(self) -> bool:
        """Return whether anything leaves it, so that rules mean something."""
        return _KINDS[self].leads_out


class _KindFacts(msgspec.Struct, frozen=True, kw_only=True):
    interface: str = ""
    tunnel: bool = False
    openbsd_only: str = ""
    leads_out: bool = True
    sysctls: tuple[str, ...] = ()


_KINDS = {
    NetworkKind.NONE: _KindFacts(leads_out=False),
    NetworkKind.NAT: _KindFacts(),
    NetworkKind.WIREGUARD: _KindFacts(interface="wg", tunnel=True),
    NetworkKind.OPENVPN: _KindFacts(interface="tun", tunnel=True, openbsd_only="OpenVPN"),
    NetworkKind.GATEWAY: _KindFacts(),
    NetworkKind.SWITCH: _KindFacts(interface="veb", openbsd_only="a switch", leads_out=False),
}

# The drivers of the interfaces that tunnels and networks have on OpenBSD; vport(4) is the host's port of a veb(4).
TUNNEL_DRIVERS = tuple(facts.interface for facts in _KINDS.values() if facts.tunnel)
NETWORK_DRIVERS = (*(facts.interface for facts in _KINDS.values() if facts.interface), "vport")
# And those of each VM: its loopback and its tap.
DRIVERS = ("lo", "tap", *NETWORK_DRIVERS)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network that VMs name (okubsd.yaml(5), NETWORKS).

    ``file`` is the configuration of a tunnel, ``gateway`` the VM that the packets go through, ``address`` the host's
    end of a switch with its prefix, ``meet`` whether the VMs on it see each other, ``resolver`` where the DNS of its
    VMs goes ("" leaves it to the tunnel, or to the host).
    """

    name: str
    kind: NetworkKind
    file: str = ""
    gateway: str = ""
    address: str = ""
    meet: bool = False
    resolver: str = ""


NONE = Network(name="none", kind=NetworkKind.NONE)
NAT = Network(name="nat", kind=NetworkKind.NAT)


class Backend(enum.StrEnum):
    """What runs a VM."""

    AUTO = "auto"
    VMD = "vmd"
    QEMU = "qemu"


class Kind(enum.StrEnum):
    """Which of the four drives an image is for."""

    BOOT = "boot"
    BASE = "base"
    APP = "app"


class Face(enum.StrEnum):
    """How what a VM shows comes to the desktop (okubsd-desktop(7))."""

    SEAMLESS = "seamless"  # each of its windows is a window of the desktop, in a frame of ours
    WINDOW = "window"  # its whole screen is one window of the desktop, in a frame of ours
    XEPHYR = "xephyr"  # its whole screen in one window, which is Xephyr's


class Guard(enum.StrEnum):
    """What becomes of files of a home that programs run by themselves and that are not known (okubsd.yaml(5))."""

    OFF = "off"
    WARN = "warn"
    LOCK = "lock"
    QUARANTINE = "quarantine"


class Zone(enum.StrEnum):
    """Which time zone a guest has: the host's but behind a tunnel, the host's, or none."""

    AUTO = "auto"
    HOST = "host"
    UTC = "UTC"


class Keys(msgspec.Struct, frozen=True):
    """The keys over a VM's window that are okubsd's (okubsd-desktop(7)), as people write them (config/chords.py)."""

    take: str = "Ctrl+Shift+C"
    give: str = "Ctrl+Shift+V"
    fill: str = "Ctrl+Shift+F11"


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of this host in a VM: its ``path`` here, ``at`` a place below the home there ("" for its name)."""

    path: str
    at: str = ""
    writable: bool = False


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual machine as the user wishes it (okubsd.yaml(5)).

    ``memory`` and ``home`` are bytes, ``face`` is how it is shown, ``display`` (width, height) of a screen of its own
    in pixels, ``display_memory`` what its X server may hold in bytes (0: by its size), ``scale`` how large its
    programs draw (0: as the desktop's do), ``fullscreen`` whether they may fill the screen, ``protect`` keeps it from
    being removed, ``persist`` are the paths of the home that are kept (() for all), ``publish`` ports of this host's
    loopback, each with that of the guest's, ``guard`` what becomes of what would run there by itself, ``rescue`` has
    it boot without its home, ``apps`` the names that may be started, first the default; () allows all of the image's.
    ``rules`` are its rules, ``tunnel`` is the wg-quick file of a gateway. ``owner`` and ``number`` are for OpenBSD:
    "" and None leave them to the host. ``copy_of`` is the VM that this is a copy of for one use, "" for none.
    ``share`` are directories of this host that it has, ``sound`` says that it may be heard, ``hook`` that the script
    .rc.local of its home runs, ``locale`` is its language, such as pt_BR ("" for the host's, "C" for none).
    """

    name: str
    image: str
    memory: int = 512 << 20
    cpus: int = 1
    network: Network = NAT
    rules: tuple[Rule, ...] = ()
    bandwidth: Bandwidth = Bandwidth()
    tunnel: str = ""
    face: Face = Face.SEAMLESS
    display: tuple[int, int] = (1280, 800)
    display_memory: int = 0
    scale: float = 0.0
    fullscreen: bool = False
    keys: Keys = Keys()
    apps: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    home: int = 2 << 30
    color: str = "grey"
    autostart: bool = False
    disposable: bool = False
    keep: bool = False
    protect: bool = False
    persist: tuple[str, ...] = ()
    publish: tuple[tuple[int, int], ...] = ()
    guard: Guard = Guard.WARN
    rescue: bool = False
    timezone: Zone = Zone.AUTO
    locale: str = ""
    share: tuple[Share, ...] = ()
    sound: bool = True
    hook: bool = False
    boot_timeout: int = 180
    backend: Backend = Backend.AUTO
    owner: str = ""
    number: int | None = None
    copy_of: str = ""


class HostDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wishes of the host itself (okubsd.yaml(5), HOST).

    ``owner`` is the user whose VMs they are ("" for whoever applies), ``group`` may open vmd's socket and call the
    helper, ``resolver`` is where the DNS of `nat` goes, ``numbers`` the first and last that a VM may get,
    ``staggered`` how many VMs are started at once and the seconds between, ``uplink`` the interface to the world,
    which only a limit of what is sent needs, ``clip_limit`` how many bytes cross from one clipboard to another at
    once.
    """

    backend: Backend = Backend.AUTO
    owner: str = ""
    group: str = "okubsd"
    resolver: str = "9.9.9.9"
    numbers: tuple[int, int] = (100, 249)
    staggered: tuple[int, int] = (1, 5)
    uplink: str = ""
    clip_limit: int = 4 << 20


class Description(msgspec.Struct, frozen=True):
    """A whole description: its file, its VMs and networks in the order they were written, and the host."""

    path: Path
    vms: tuple[Vm, ...]
    host: HostDescription = HostDescription()
    networks: tuple[Network, ...] = ()

    def find(self, name: str) -> Vm | None:
        """Return the VM called ``name``, or None."""
        return next((vm for vm in self.vms if vm.name == name), None)


class Part(msgspec.Struct, frozen=True):
    """One file of a built image: its name, SHA-256 in hex and size in bytes."""

    name: str
    sha256: str
    size: int


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A built image, as its manifest.json says.

    ``build`` is the first twelve hex digits of the SHA-256 over its parts, ``recipe`` the digest of the recipe and
    files it was made from, ``base`` the build it was made on ("" for none), ``built`` seconds since the epoch.
    ``built_here`` says that nobody else made it, ``signer`` is the fingerprint of the key that an imported one was
    signed with. ``archive`` is the date of the newest archive that its packages are of, in seconds since the epoch
    (0: not known), ``needs`` what an app needs of its base: path to digest. ``made_of`` is the recipe that it was
    made from, "" for that of its own name.
    """

    name: str
    kind: Kind
    build: str
    recipe: str
    base: str
    built: int
    parts: tuple[Part, ...]
    apps: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    built_here: bool = False
    signer: str = ""
    archive: int = 0
    needs: dict[str, str] = {}
    made_of: str = ""
    locales: tuple[str, ...] = ()
    schema: int = 1

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked of ``okubsd start``; ``waits`` is of one that is to stand still then, until it is wanted."""

    app: str = ""
    arguments: tuple[str, ...] = ()
    headless: bool = False
    another: bool = False
    windowless: bool = False
    waits: bool = False
