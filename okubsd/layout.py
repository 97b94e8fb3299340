"""Every path of okubsd, on either host, by name.  Nothing here looks at a disk.

Paths on an OpenBSD host are written without their leading slash where they lie below the directory that stands for
the root, and with it where they are words in a file or of a command line there (hier(7)).
"""

from __future__ import annotations

# --- the directories of a user: state, in it a directory for each VM, and run, where sockets lie -----------------

STATE_VMS, STATE_IMAGES, STATE_RUN = "vms", "images", "run"
STATE_KEY, STATE_TRUSTED = "key", "trusted"
# What was found out of the host, which images were verified, and locks.
HOST_ANSWERS, VERIFIED = "host.json", "verified.json"
# Where an update is tried before it is taken.
TRIAL, TRIAL_LOCK = "trial", "trial.lock"
CONTAINER_LOCK = "container.lock"
# What came back from a copy in which a file was opened, until it is decided what becomes of it.
OPENED = "opened"
# Saved states of guests that are nobody yet: the memory of one, its machine, and what it is of.
POOL, POOL_LOCK = "pool", "pool.lock"
MEMORY, MACHINE, SAVED = "memory", "machine", "state.json"
# What APT knows of the archives, and which indexes of images were seen.
APT, PULLED = "apt", "pulled.json"
DESCRIPTION_LOCK, GATEWAYS_LOCK = "description.lock", "gateways.lock"
# What was taken from a clipboard, and every crossing from one VM to another.
CLIP, CROSSINGS, OLD_CROSSINGS = "clip", "crossings.log", "crossings.log.old"
IN_STATE = frozenset(
    {
        *(STATE_VMS, STATE_IMAGES, STATE_RUN, STATE_KEY, STATE_TRUSTED),
        *(HOST_ANSWERS, VERIFIED, DESCRIPTION_LOCK, GATEWAYS_LOCK),
        *(CLIP, CROSSINGS, OLD_CROSSINGS, TRIAL, TRIAL_LOCK, CONTAINER_LOCK, APT, PULLED, POOL, POOL_LOCK, OPENED),
    }
)

# --- the directory of a VM: what is kept ------------------------------------------------------------------------

HOME, HOME_NEW = "home.img", "home.new"
CLIENT_KEY, HOST_SEED, KNOWN_HOSTS = "id_ed25519", "host_ed25519", "known_hosts"
VM_LOCK, TIMINGS, TOLD = "lock", "starts.jsonl", "told"
SELFTEST = "selftest.json"
# How loud it is.
SOUND = "sound.json"
# What a copy is of: only a copy has it.
COPY_OF = "copy-of"
# In a copy that has started and waits to be taken.
WAITING = "waiting.json"
CONSOLE_LOG, OLD_CONSOLE_LOG = "console.log", "console.log.1"
QEMU_LOG, DISPLAY_LOG, GLASS_LOG, FAREWELL_LOG, UPLINK_LOG, NAMES_LOG, KEEPER_LOG, WATCH_LOG, ATTENDED_LOG = (
    f"{name}.log" for name in ("qemu", "display", "glass", "farewell", "uplink", "names", "keeper", "watch", "attended")
)
MIC_LOG = "mic.log"
LOGS = (CONSOLE_LOG, QEMU_LOG, DISPLAY_LOG, GLASS_LOG, NAMES_LOG, KEEPER_LOG, UPLINK_LOG)

# --- the run directory of a VM: what says that it lives, and dies with it ----------------------------------------

QMP, CONSOLE = "qmp", "console"
QEMU_LIFE, DISPLAY_LIFE, NAMES_LIFE = "qemu.life", "display.life", "names.life"
SSH_CONFIG, SSH_SOCKET = "ssh_config", "ssh-"
INITRD, STARTED, STALL, CLOCK = "initrd", "started.json", "stall", "clock.json"
# The drive that tells a guest who it is that goes on from a saved state.
IDENTITY = "identity"
# The builds that it was started with, by the names of their images.
BUILDS = "builds.json"
DISPLAY, NESTED, XAUTHORITY, COOKIE = "display", "nested", "Xauthority", "cookie"
NAMES, NAMES_STATE = "names", "names.state"
# Who shows the VM's windows, and the socket that he answers at.
GLASS, GLASS_LIFE = "glass", "glass.life"
# Who hears what the guest asks and plays, and who gives it a microphone.
ATTENDED_LIFE, MIC_LIFE, MIC_LOCK = "attended.life", "mic.life", "mic.lock"
CLIENTS, LINK = "clients.json", "link"
PUBLISHED, SHARE = "publish-", "share-"
# A way to the VM's display through the guest, while a self-test runs.
SELFTEST_SOCKET = "selftest"
# What belongs to the display: it may outlive a boot.
OF_DISPLAY = frozenset({DISPLAY, DISPLAY_LIFE, NESTED, XAUTHORITY, COOKIE, GLASS, GLASS_LIFE})

# --- an image: images/NAME/BUILD, and a link to the current one --------------------------------------------------

CURRENT, MANIFEST = "current", "manifest.json"
KERNEL, BOOT_INITRD, NETWORK_INITRD = "vmlinuz", "initrd", "network"
# How that kernel was configured, where its package tells.
KERNEL_CONFIG = "config"
SQUASHFS, QCOW2 = "drive.squashfs", "drive.qcow2"
# What of a base only the builds of apps need: a drive that no VM has.
TOOLS, TOOLS_INDEX = "tools.squashfs", "tools.json"
# What the user's key signed of a build, in the form that `signify -C` checks; what is in its tree, with digests.
SIGNED, INDEX = "SHA256.sig", "index.json"
# In a build that was never current: no VM was started with it yet but to try it.
UNTRIED = "untried"
# Which builds are to be current together, among the images, while they are being made so.
SWITCH = ".switch"

# --- an OpenBSD host (okubsd(8), FILES) -------------------------------------------------------------------------

ETC = "etc/okubsd"
VM_CONF, PF_CONF = f"{ETC}/vm.conf", f"{ETC}/pf.conf"
ANCHORS, RECORDS, NAMES_OF_RULES = f"{ETC}/pf", f"{ETC}/vms", f"{ETC}/names"
NUMBERS, AUTOSTART = f"{ETC}/numbers", f"{ETC}/autostart"
# What of sysctl(2) was before okubsd had it be 1: NAME=VALUE, a line each.
SYSCTL_BEFORE = f"{ETC}/sysctl-before"
# The queues of an interface, which are loaded while it is there; what dhcpd(8) leases on a switch; tunnels.
QUEUES, DHCPD, OPENVPN = f"{ETC}/queues", f"{ETC}/dhcpd", f"{ETC}/openvpn"

# What is made on the way, and is empty when all files of okubsd's are gone; what lives until the next boot.
EMPTY_AT_LAST = (ANCHORS, RECORDS, NAMES_OF_RULES, QUEUES, DHCPD, OPENVPN, ETC)
VAR_RUN = "var/run/okubsd"

SITE_VM_CONF, SITE_PF_CONF, SITE_DOAS_CONF = "etc/vm.conf", "etc/pf.conf", "etc/doas.conf"
SITE_SYSCTL_CONF, SITE_RC_CONF = "etc/sysctl.conf", "etc/rc.conf.local"
DAEMON_LOG, FIRMWARE = "var/log/daemon", "etc/firmware/vmm-bios"

# What vmd(8) opens belongs to root.
VAR = "var/okubsd"
DRIVES, SYSTEM_IMAGES = f"{VAR}/vms", f"{VAR}/images"
STAGE, JOURNAL, APPLY_LOCK = f"{VAR}/apply/new", f"{VAR}/apply/journal", f"{VAR}/apply/lock"

HELPER, TUN_PROGRAM = "/usr/local/libexec/okubsd-helper", "/usr/local/libexec/okubsd-tun"


def hostname_if(interface: str) -> str:
    """Return the path of the hostname.if(5) of ``interface``."""
    return f"etc/hostname.{interface}"


def leases_of(network: str) -> str:
    """Return the file in which dhcpd(8) keeps the leases of the switch ``network``."""
    return f"/var/db/okubsd-{network}.leases"
