"""The command table: help, completion and dispatch all read these rows."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One command: its name, where its click command lives, what it does, and what its first word names."""

    name: str
    module: str
    attribute: str
    summary: str
    takes: str = ""  # "vm", "vms", "image", "path" or "": what completion offers


ROWS = (
    Row("start", "lifecycle", "start", "Boot a VM if need be and show an app's window", "vm"),
    Row("stop", "lifecycle", "stop", "Power VMs off", "vms"),
    Row("restart", "lifecycle", "restart", "Stop a VM and start it again", "vm"),
    Row("list", "look", "list_vms", "List the VMs"),
    Row("ls", "look", "list_vms", "The same as list"),
    Row("rename", "names", "rename", "Call a VM by another name", "vm"),
    Row("rm", "names", "rm", "Remove a VM, its home and its keys", "vm"),
    Row("status", "look", "status", "Tell everything about one VM, or a line about each", "vm"),
    Row("run", "enter", "run", "Run a command in a VM", "vm"),
    Row("shell", "enter", "shell", "Open a shell in a VM", "vm"),
    Row("console", "enter", "console", "Attach to a VM's serial console", "vm"),
    Row("log", "look", "log", "Print what a VM's console said since it was booted", "vm"),
    Row("cp", "copy", "copy", "Copy files into a VM or out of it", "path"),
    Row("send", "copy", "send_files", "Put files into the inbox of a VM", "path"),
    Row("open", "opening", "open_command", "Open an address or a file in the VM that is to open it", "path"),
    Row("share", "share", "share", "Have a directory of this host in a VM", "vm"),
    Row("unshare", "share", "unshare", "Take a shared directory away from a VM", "vm"),
    Row("volume", "sound", "volume", "Say or set how loud a VM is", "vm"),
    Row("mic", "sound", "mic", "Give a VM the microphone, or take it away"),
    Row("clip", "clip", "clip", "Carry what was copied from one VM to another", "vms"),
    Row("policy", "policy", "policy", "Say what may cross from one VM to another"),
    Row("screenshot", "enter", "screenshot", "Write what a VM shows as a PNG file", "vm"),
    Row("windows", "desktop", "windows", "List the windows that VMs show on the desktop", "vm"),
    Row("selftest", "selftest", "selftest", "Attack a VM from inside, and see which walls hold", "vm"),
    Row("raise", "desktop", "raise_window", "Bring a VM's window up", "vm"),
    Row("close", "desktop", "close_window", "Ask a VM's window to close", "vm"),
    Row("type", "desktop", "type_text", "Type on a VM's own display", "vm"),
    Row("click", "desktop", "click_at", "Click on a VM's own display", "vm"),
    Row("install", "install", "install", "Have an app in a VM of its own, built and in the menus"),
    Row("uninstall", "install", "uninstall", "Remove a VM with its menu entry and its image", "vm"),
    Row("search", "install", "search", "List recipes of apps"),
    Row("menu", "menu", "menu", "Have the programs of VMs in the menus of the desktop"),
    Row("image", "image", "image", "Build, list and remove images"),
    Row("builder", "builder", "builder", "Describe a VM that builds images, for hosts that cannot"),
    Row("rescue", "lifecycle", "rescue", "Boot a VM without its home, to look after it", "vm"),
    Row("guard", "audit", "guard", "Tell what of a home would run by itself, or take it for known", "vm"),
    Row("audit", "audit", "audit", "Look how hard a guest is, or which of two is harder", "vms"),
    Row("update", "update", "update", "Build images with newer packages, try them, and switch to them"),
    Row("pool", "pool", "pool", "Save guests that have booted, so that VMs start at once", "vms"),
    Row("key", "key", "key", "Press keys on a VM's own display; ls, trust, rm: whose images are taken", "vm"),
    Row("check", "check", "check", "Check the description"),
    Row("render", "compile", "render", "Write the files of an OpenBSD host into a directory", "path"),
    Row("apply", "compile", "apply", "Install the description on this OpenBSD host"),
    Row("unapply", "compile", "unapply", "Take what apply installed away again"),
    Row("why", "why", "why", "Say which rule decides what a VM reaches", "vm"),
    Row("net", "net", "net", "Show and change what VMs reach", "vm"),
    Row("vpn", "vpn", "vpn", "List tunnels, and prove them", "vm"),
    Row("graph", "net", "graph", "Draw VMs, gateways and networks"),
    Row("publish", "net", "publish", "Give a port of a VM to this host's loopback", "vm"),
    Row("clock", "enter", "clock", "Set the clocks of VMs by the host's", "vms"),
    Row("doctor", "doctor", "doctor", "Say what this host lacks, and how to install it"),
    Row("report", "report", "report_fault", "Write what tells of a fault into one file, without keys"),
    Row("bench", "bench", "bench", "Measure how long starts take"),
    Row("completion", "completion", "completion", "Print the completion for a shell"),
    Row("version", "look", "version", "Print the version"),
)


def names() -> list[str]:
    """Return the names of all commands."""
    return [row.name for row in ROWS]


def row_named(name: str) -> Row | None:
    """Return the row of the command ``name``, or None."""
    return next((row for row in ROWS if row.name == name), None)
