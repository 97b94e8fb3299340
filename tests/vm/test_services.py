"""Guests that show nothing and answer: services of recipes, and containers, where they are published."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_container import layer, member, saved
from tests.vm.world import World

pytestmark = pytest.mark.vm


def fetched_by_name(hosts: str, url: str, tmp: Path) -> bytes:
    """Return what is at ``url`` for a host whose hosts(5) has the lines ``hosts``, too: seen in a namespace alone."""
    (tmp / "hosts").write_text(Path("/etc/hosts").read_text() + hosts)
    read = (
        "import sys, urllib.request as r; way = r.build_opener(r.ProxyHandler({}))\n"
        "sys.stdout.buffer.write(way.open(sys.argv[1], timeout=60).read(65536))"
    )
    script = 'mount --bind "$1" /etc/hosts && exec "$2" -c "$3" "$4"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp / "hosts"), sys.executable, read, url]
    return subprocess.run(argv, capture_output=True, check=True, timeout=120).stdout


def test_a_recipe_with_a_service_only_answers_where_it_is_published(world: World, tmp_path: Path) -> None:
    text = world.description.read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world.description.write_text(f"{text}  web: {{image: web, memory: 96M, network: none, publish: ['{port}:80']}}\n")
    try:
        done = world.call("start", "web")
        assert done.code == 0 and f"web: its port 80 is 127.0.0.1:{port} here" in done.err, done.err
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert b"nginx" in page.read(1 << 16)
        assert world.status("web")["published"] == [f"127.0.0.1:{port} -> 80"]
        # A root directory that is no mount point, as a chroot's, lets nobody mount for himself.
        if os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0:
            assert b"nginx" in fetched_by_name(world.ok("publish", "--hosts"), f"http://web.okubsd:{port}/", tmp_path)
        world.ok("stop", "web")
        assert not world.running("web")
    finally:
        world.end_all()
        world.description.write_text(text)


@contextlib.contextmanager
def container(world: World, source: Path) -> Iterator[int]:
    """Have a VM of the container ``source``; yields the port of this host's loopback that leads to its port 80."""
    text = world.description.read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        world.ok("image", "import", "--container", "box", str(source))
        world.description.write_text(
            f"{text}  box: {{image: box, memory: 128M, network: none, publish: ['{port}:80']}}\n"
        )
        world.ok("start", "box")
        yield port
    finally:
        world.end_all()
        world.call("image", "rm", "box")
        shutil.rmtree(world.config / "okubsd/images/box", ignore_errors=True)
        world.description.write_text(text)


def test_nginx_of_a_container_shows_its_page(world: World, tmp_path: Path) -> None:
    """A container as docker has them: a whole distribution, whose program begins as root and has workers of a user."""
    world.ok("image", "build", "web")
    tree = tmp_path / "tree"
    for name in ("base", "web"):
        drive = f"{world.ok('image', 'path', name).strip()}/drive.squashfs"
        subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-force", "-dest", tree, drive], check=True)
    # The one that is enabled is a link to this.
    site = tree / "etc/nginx/sites-available/default"
    text = site.read_text()
    site.write_text("".join(line for line in text.splitlines(keepends=True) if "[::]" not in line))
    for page in (tree / "var/www/html").glob("*"):
        page.unlink()
    (tree / "var/www/html/index.html").write_text("from nginx in a container")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(tree, ".")
    config = {"Entrypoint": ["/usr/sbin/nginx"], "Cmd": ["-g", "daemon off;"], "Env": ["PATH=/usr/sbin:/usr/bin"]}
    source = saved(tmp_path / "nginx.tar", packed.getvalue(), config=config)
    with (
        container(world, source) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer,
    ):
        assert answer.read(1 << 16) == b"from nginx in a container" and "nginx" in answer.headers["Server"]


def test_a_container_answers_and_sees_its_own_files_only(world: World, tmp_path: Path) -> None:
    base = world.ok("image", "path", "base").strip()
    busybox = subprocess.run(
        ["unsquashfs", "-cat", f"{base}/drive.squashfs", "usr/bin/busybox"], capture_output=True, check=True
    ).stdout
    page = (
        "#!/bin/busybox sh\necho Content-type: text/plain; echo; id -u; ls /; /bin/busybox mount -t tmpfs x /tmp 2>&1\n"
    )
    files = layer(
        member("bin/busybox", busybox), member("www/cgi-bin/who", page.encode()), member("www/index.html", b"from a container"),
        member("bin/sh", type=tarfile.SYMTYPE, linkname="busybox"), member("bin/ls", type=tarfile.SYMTYPE, linkname="busybox"),
        member("bin/id", type=tarfile.SYMTYPE, linkname="busybox"), member("tmp", type=tarfile.DIRTYPE),
    )  # fmt: skip
    config = {"Entrypoint": ["/bin/busybox", "httpd", "-f"], "Cmd": ["-p", "80", "-h", "/www"], "User": "1234"}
    source = saved(tmp_path / "box.tar", files, config=config)
    with container(world, source) as port:
        assert world.call("image", "import", "--container", "box", str(source)).code == 2
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert answer.read(1 << 16) == b"from a container"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/cgi-bin/who", timeout=60) as answer:
            said = answer.read(1 << 16).decode()
        # Its own user, its own files, and no way to mount anything.
        assert (
            said.split()[0] == "1234"
            and "www" in said.split()
            and "oci" not in said.split()
            and "home" not in said.split()
        )
        assert "Operation not permitted" in said or "permission denied" in said
        # It is not built by packages, and nothing is said to be newer.
        assert world.call("image", "build", "box").code == 0
