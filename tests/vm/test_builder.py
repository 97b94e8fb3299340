"""A VM that builds images: the same bytes as on this host, and no way but to the mirrors."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

from okubsd.host.release import sources_of
from okubsd.images.sources import parse_deb822
from okubsd.model import Kind
from okubsd.recipe import Recipe
from tests.vm.world import World

# A mirror of a closed network may have an address that no name opens.
DESCRIPTION = """
  builder: {{image: builder, memory: 1G, cpus: 2, home: 3G, keep: yes, network: nat, deny: [any], allow: [{rules}]}}
"""


def rules() -> str:
    uris = {source.uri for source in parse_deb822(sources_of(Recipe(name="x", kind=Kind.BASE))[1])}
    hosts = {(parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]) for parts in map(urlsplit, uris)}
    return ", ".join(f'"tcp {socket.gethostbyname(host)}:{port}"' for host, port in hosts if host)


def build_of(world: World, name: str) -> str:
    rows = json.loads(world.ok("image", "ls", "--json"))["images"]
    return next(str(row["build"]) for row in rows if row["name"] == name)


def test_a_vm_builds_the_same_bytes_as_this_host(world: World) -> None:
    world.ok("image", "build", "--force", "term", "builder")
    here = build_of(world, "term")
    text = world.description.read_text()
    assert "image: builder" in world.ok("builder") and "deny: [any]" in world.ok("builder")
    refused = world.call("image", "build", "--in", "kept", "term")
    assert refused.code != 0 and "builds no images" in refused.err
    world.description.write_text(text + DESCRIPTION.format(rules=rules()))
    try:
        # A mirror may not answer a busy guest in time; whatever it was the first time is shown.
        first = world.call("image", "build", "--force", "--in", "builder", "term")
        print(first.err)
        if first.code != 0:
            world.ok("image", "build", "--force", "--in", "builder", "term")
        assert build_of(world, "term") == here
        # The date of its manifest is newer: it was made again.
        assert len(json.loads(world.ok("image", "history", "term", "--json"))["builds"]) >= 1
        assert world.ok("run", "--root", "builder", "--", "ls", "/home/user").strip() == ""
        tried = "busybox nc -w 5 203.0.113.77 80 </dev/null && echo there || echo shut"
        assert world.ok("run", "builder", "--", "sh", "-c", tried).strip() == "shut"
    finally:
        world.call("stop", "-f", "builder")
        world.description.write_text(text)
