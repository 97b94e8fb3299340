"""A simulated OpenBSD host for one test."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import CHECKOUT
from tests.openbsd.server import servers

DESCRIPTION = """\
host:
  owner: alice
vms:
  term:
    image: term
    memory: 192M
    home: 64M
  vault:
    image: term
    memory: 192M
    network: none
    disposable: yes
"""


class World:
    """The tree of one simulated host, and ways to run programs on it as one of its users."""

    def __init__(self, root: Path, shell: str = "/bin/mksh", laid: bool = True) -> None:
        self.root = root
        self.description = root / "okubsd.yaml"
        if laid:
            self._install(root, shell)
        for path in servers().iterdir():
            (root / "sim" / path.name).unlink(missing_ok=True)
            (root / "sim" / path.name).symlink_to(path)

    def _install(self, root: Path, shell: str) -> None:
        env = {**os.environ, "SIM_ROOT": str(root)}
        code = f"from pathlib import Path; from tests.openbsd.sim.install import install; install(Path({str(root)!r}), {shell!r})"
        subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=env, check=True)
        (root / "xdg").mkdir(exist_ok=True)
        self.write(DESCRIPTION)

    def env(self, user: str = "root", **extra: str) -> dict[str, str]:
        """Return the environment of a program that ``user`` runs."""
        kept = {name: os.environ[name] for name in ("HOME", "TERM", "LANG") if name in os.environ}
        return kept | {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(CHECKOUT),
            "SIM_ROOT": str(self.root),
            "SIM_USER": user,
            "SIM_TSC": "2600000000",
            "OKUBSD_ROOT": str(self.root),
            "OKUBSD_CONFIG": str(self.description),
            "OKUBSD_STATE": str(self.root / f"home/{user}"),
            **extra,
        }

    def write(self, description: str) -> None:
        """Write okubsd.yaml."""
        self.description.write_text(description)

    def run(
        self, *argv: str, user: str = "root", data: str = "", timeout: int = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the host as ``user``."""
        return subprocess.run(
            argv, env=self.env(user), cwd=self.root, input=data, capture_output=True, text=True, timeout=timeout, check=False
        )  # fmt: skip

    def okubsd(self, *args: str, user: str = "root", timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Run okubsd as ``user``: one who is not root does not take itself for root."""
        try:
            return self.run(str(self.root / "bin/__okubsd"), *args, user=user, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"okubsd {args} does not end: {error.stderr}{self.consoles()}") from None

    def consoles(self) -> str:
        """Return what guests said last on their serial lines, which vmd keeps nowhere."""
        logs = sorted(self.root.glob("sim/*.serial"), key=lambda path: path.stat().st_mtime)
        return "".join(f"\n{path.stem}: {path.read_bytes()[-1500:].decode(errors='replace')}" for path in logs[-2:])

    def must(self, *args: str, user: str = "root", timeout: int = 300) -> str:
        """Run okubsd and return what it printed; it has to end with 0."""
        done = self.okubsd(*args, user=user, timeout=timeout)
        assert done.returncode == 0, f"okubsd {args}: {done.stderr}{self.consoles()}"
        return done.stdout

    @property
    def state(self) -> dict[str, Any]:
        """Return the state of the simulator."""
        path = self.root / "sim/state.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def change(self, **values: Any) -> None:
        """Put ``values`` into the simulator's state, while none of its programs changes it."""
        with (self.root / "sim/lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = self.root / "sim/state.test"
            made.write_text(json.dumps(self.state | values))
            made.replace(self.root / "sim/state.json")

    def faults(self, **faults: Any) -> None:
        """Let the simulator fail in the named ways; no name takes all faults away."""
        self.change(faults=faults)

    def fake_images(self, *names: str) -> None:
        """Lay images that vmd could open overlays of, without anything in them."""
        for name in names or ("boot", "base", "term"):
            directory = self.root / f"var/okubsd/images/{name}/0123456789ab"
            directory.mkdir(parents=True)
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", str(directory / "drive.qcow2"), "1M"],
                check=True,
            )  # fmt: skip
            data = f"the tree of {name}".encode()
            (directory / "drive.squashfs").write_bytes(data)
            part = {"name": "drive.squashfs", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            manifest = {"name": name, "kind": {"boot": "boot", "base": "base"}.get(name, "app"), "recipe": "", "base": "",
                        "build": directory.name, "built": 0, "parts": [part]}  # fmt: skip
            (directory / "manifest.json").write_text(json.dumps(manifest))
            (directory.parent / "current").symlink_to(directory.name)

    def lay(self) -> None:
        """Lay the files of the description without an apply, and let vmd read them: quicker, where apply is not meant."""
        from okubsd.config.description import parse_description
        from okubsd.host.places import find_places
        from okubsd.host.reading import read_recipes
        from okubsd.host.system import HostRoot
        from okubsd.host.tunnels import read_secrets
        from okubsd.plan.changes import wanted_files
        from okubsd.plan.compile import compile_host

        recipes = read_recipes(find_places(self.env()))
        description = parse_description(self.description, self.description.read_text(), [], recipes)
        system = HostRoot(self.root)
        compiled = compile_host(description, recipes, {}, "alice", read_secrets(description), time.time())
        for name, stat in wanted_files(compiled, {"etc/pf.conf": system.read("etc/pf.conf")}).items():
            if stat is not None:
                system.write(name, stat)
        switches = [path.name.removeprefix("hostname.") for path in self.root.glob("etc/hostname.v*")]
        self.run("sh", str(self.root / "etc/netstart"), *sorted(switches))
        for vm in compiled.vms:
            done = self.run("sh", "-c", f"exec {self.root}/usr/local/libexec/okubsd-helper create {vm.vm.name}")
            assert done.returncode == 0, done.stderr
        assert self.run("rcctl", "start", "vmd").returncode == 0

    def tree(self, *tops: str) -> dict[str, tuple[str, int]]:
        """Return the text and mode of every file below ``tops`` (etc and var/okubsd/apply)."""
        found = {}
        for top in tops or ("etc", "var/okubsd/apply"):
            for path in sorted((self.root / top).rglob("*")):
                if path.is_file() and path.name != "lock":
                    name = str(path.relative_to(self.root))
                    found[name] = (path.read_text(errors="replace"), path.stat().st_mode & 0o777)
        return found


_TWINS: dict[tuple[Any, ...], Path] = {}


def twin(root: Path, shell: str, *deeds: Callable[[World], None]) -> World:
    """Return the host below ``root`` on which ``deeds`` were done: they are done once, and each test gets a copy."""
    if (shell, *deeds) not in _TWINS:
        first = Path(tempfile.mkdtemp(prefix="twin-"))
        atexit.register(shutil.rmtree, first, ignore_errors=True)
        made = World(first, shell)
        for deed in deeds:
            deed(made)
        _TWINS[(shell, *deeds)] = first
    copy(_TWINS[(shell, *deeds)], root)
    return World(root, shell, laid=False)


def copy(first: Path, root: Path) -> None:
    """Copy the host below ``first`` to ``root``, under its own name in every file; disks are big and hold no name."""
    subprocess.run(["cp", "-a", f"{first}/.", str(root)], check=True)
    before, after = str(first).encode(), str(root).encode()
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
            continue
        data, mode = path.read_bytes(), path.stat().st_mode
        if before in data:
            path.chmod(0o600)
            path.write_bytes(data.replace(before, after))
            path.chmod(mode)
