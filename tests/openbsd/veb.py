"""A veb(4) of the simulated host: frames between QEMUs by unix datagrams, a vport(4) on it, and dhcpd(8) behind that.

veb.py ROOT vebN: in a network namespace of its own, until no VM has a port on the switch any more
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_TUNSETIFF, _IFF_TAP_NO_PI = 0x400454CA, 0x1002


class Dhcpd:
    """What dhcpd(8) answers: those hosts that its configuration names, and nobody else."""

    def __init__(self, path: Path) -> None:
        text = path.read_text()
        hosts = r"\thost ([a-z][a-z0-9-]*) \{ hardware ethernet ([0-9a-f:]{17}); fixed-address ([0-9.]+); \}\n"
        whole = re.fullmatch(rf"subnet ([0-9.]+) netmask ([0-9.]+) \{{\n((?:{hosts})*)\}}\n", text)
        if whole is None:
            sys.exit(f"simulator: undocumented: {path}: {text!r}")
        self.network = ipaddress.IPv4Network(f"{whole[1]}/{whole[2]}")
        self.known = {mac: ipaddress.IPv4Address(address) for _, mac, address in re.findall(hosts, text)}
        assert all(address in self.network for address in self.known.values())

    def reply(self, request: bytes, server: str) -> bytes:
        """Return the answer to a DHCP request (RFC 2131), b"" for none."""
        if len(request) < 241 or request[0] != 1:
            return b""
        kind = re.search(rb"\x35\x01(.)", request[240:], re.DOTALL)
        answer = {1: 2, 3: 5}.get(kind[1][0] if kind else 0)
        yours = self.known.get(request[28:34].hex(":"))
        if answer is None or yours is None:
            return b""
        mine = socket.inet_aton(server)
        head = struct.pack("!4B4s2H", 2, 1, 6, 0, request[4:8], 0, 0x8000) + bytes(4) + yours.packed + mine + bytes(4)
        options = b"\x63\x82\x53\x63\x35\x01" + bytes([answer]) + b"\x36\x04" + mine + b"\x33\x04\0\0\xa8\xc0"
        options += b"\x01\x04" + self.network.netmask.packed + b"\xff"
        return (head + request[28:44] + bytes(192) + options).ljust(300, b"\0")


class Switch:
    """One veb(4): its ports are taps that VMs have opened, and the host's vport where there is one."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name, self.number = root, name, name[3:]
        self.path = root / f"sim/{name}.sock"
        self.path.unlink(missing_ok=True)
        self.ports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ports.bind(str(self.path))
        self.ports.setblocking(False)
        self.tap = self.lease = None
        hostname = self._lines(f"vport{self.number}")
        if f"add vport{self.number}" in self._lines(name) and hostname:
            self._open_vport(hostname)

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "sim/state.json").read_text())
        return found

    def _lines(self, interface: str) -> list[str]:
        return list(self._state()["interfaces"].get(interface, []))

    def _open_vport(self, lines: list[str]) -> None:
        vport = f"vport{self.number}"
        inet = next(line for line in lines if line.startswith("inet "))
        _, self.address, mask = inet.split()
        daemon = re.search(r"dhcpd -c (\S+) -l \S+ vport\d+$", "\n".join(lines), re.MULTILINE)
        self.dhcpd = Dhcpd(self.root / daemon[1].lstrip("/")) if daemon else None
        self.tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.tap, _TUNSETIFF, struct.pack("16sH", vport.encode(), _IFF_TAP_NO_PI))
        prefix = ipaddress.IPv4Network(f"0.0.0.0/{mask}").prefixlen
        for words in (f"address add {self.address}/{prefix} dev {vport}", f"link set {vport} up"):
            subprocess.run(["ip", *words.split()], check=True)
        self.lease = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.lease.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.lease.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, vport.encode())
        self.lease.bind(("", 67))

    def run(self) -> None:
        """Carry frames for as long as a VM that runs has a port here."""
        looked, told, taps, protected = 0.0, 0, set(), {}
        waiting = [self.ports, *(one for one in (self.tap, self.lease) if one is not None)]
        while True:
            ready_now = select.select(waiting, [], [], 0.3)[0]
            # What it was told holds from the next frame on.
            changed = (self.root / "sim/state.json").stat().st_mtime_ns
            late = time.monotonic() - looked > 0.5
            if changed != told or late:
                told, state = changed, self._state()
                live = [vm["vm"]["ports"] for vm in state["running"].values()]
                taps = {port["tap"] for ports in live for port in ports if port["interface"] == self.name}
                protected = state.get("protected", {}).get(self.name, {})
                if not taps and looked and late:
                    return
                looked = time.monotonic() if late else looked
            for ready in ready_now:
                if ready is self.ports:
                    frame, sender = self.ports.recvfrom(65536)
                    self._carry(frame, Path(sender).name, taps, protected)
                elif ready is self.lease and self.lease and self.dhcpd:
                    answer = self.dhcpd.reply(self.lease.recv(2048), self.address)
                    if answer:
                        self.lease.sendto(answer, ("255.255.255.255", 68))
                elif self.tap is not None:
                    self._send(os.read(self.tap, 65536), taps)

    def _carry(self, frame: bytes, sender: str, taps: set[str], protected: dict[str, int]) -> None:
        """Give a port's frame to the others; those protected by one number do not reach each other (veb(4))."""
        apart = {tap for tap in taps if protected.get(tap) == protected.get(sender) is not None}
        self._send(frame, taps - apart - {sender})
        if self.tap is not None:
            os.write(self.tap, frame)

    def _send(self, frame: bytes, taps: set[str]) -> None:
        for tap in taps:
            # A port whose VM has not begun to read, or has ended, loses it, as on any wire.
            with contextlib.suppress(OSError):
                self.ports.sendto(frame, str(self.root / f"sim/{tap}"))


if __name__ == "__main__":
    Switch(Path(sys.argv[1]), sys.argv[2]).run()
