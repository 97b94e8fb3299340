"""The gateways of VMs on this host: what they were started with, whether they live, and when nobody needs them."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path

from okubsd import layout
from okubsd.decode import read_json
from okubsd.errors import Problem
from okubsd.host import door, programs
from okubsd.host.guest import ROOT, Guest
from okubsd.host.places import Places
from okubsd.host.running import live_qemu
from okubsd.model import Description, NetworkKind, Vm
from okubsd.plan.gateway import (
    Clients,
    Links,
    Through,
    clients_of,
    endpoint_rules,
    gateway_of,
    gateway_texts,
    implied_gateways,
    need_tunnel,
)
from okubsd.recipe import Recipe
from okubsd.vpn.wg_quick import Tunnel


def find_gateway(vm: Vm, description: Description) -> Vm | None:
    """Return the VM that the packets of ``vm`` go through here, or None; a host with vmd has tunnels of its own."""
    if programs.has_vmd():
        return description.find(vm.network.gateway) if vm.network.kind is NetworkKind.GATEWAY else None
    return gateway_of(vm, description)


def known_gateways(description: Description) -> tuple[Vm, ...]:
    """Return the gateways that okubsd makes by itself here."""
    return () if programs.has_vmd() else implied_gateways(description)


def _tunnel_of(gateway: Vm) -> Tunnel | None:
    """Return the tunnel that a gateway was given, None where it has none.

    Raises BadDescription for a tunnel whose file is wrong.
    """
    if not gateway.tunnel:
        return None
    from okubsd.host.tunnels import read_tunnel

    return read_tunnel(Path(gateway.tunnel))


def read_clients(places: Places, gateway: Vm, description: Description) -> Clients | None:
    """Return what ``gateway`` was started with, or None where it does not run.

    The NICs of a VM of vmd's are those of vm.conf(5), so there it is what the description says.
    """
    if programs.has_vmd():
        from okubsd.host.records import ask_status

        runs = any(row.name == gateway.name and row.running for row in ask_status(gateway.name))
        return planned_clients(gateway, description, None) if runs else None
    run = places.vm_run(gateway.name)
    if live_qemu(run) is None:
        return None
    try:
        return read_json((run / layout.CLIENTS).read_bytes(), Clients)
    except (OSError, ValueError):
        return None


def planned_clients(gateway: Vm, description: Description, beyond: Clients | None) -> Clients:
    """Return what ``gateway`` is to be started with; ``beyond`` are the links of its own gateway.

    Raises BadDescription for a tunnel whose file is wrong.
    """
    tunnel = _tunnel_of(gateway)
    outer = beyond.mtu if beyond else 1500
    # What is put into a tunnel gets the tunnel's own head, 80 bytes at most (wg(4)).
    mtu = min(tunnel.mtu, outer - 80) if tunnel else outer
    names = tuple(client.name for client in clients_of(gateway, description))
    resolver = gateway.network.resolver or description.host.resolver
    return Clients(names=names, mtu=mtu, uplink="eth1" if beyond else "eth0", resolver=resolver)


def ask_links(places: Places, vm: Vm, description: Description, recipes: Mapping[str, Recipe]) -> Links:
    """Return the links of ``vm``: to its gateway, and to the VMs that go through it if it is one.

    Raises BadDescription for a tunnel whose file is wrong.
    """
    gateway = find_gateway(vm, description)
    through = None
    if gateway is not None:
        # A plan that is only shown takes a gateway that does not run for one that was started now.
        clients = read_clients(places, gateway, description) or ask_links(places, gateway, description, recipes).clients
        through = Through(gateway=gateway, run=places.vm_run(gateway.name), clients=clients)
    recipe = recipes.get(vm.image)
    if recipe is None or not recipe.gateway:
        return Links(through=through)
    tunnel = _tunnel_of(vm)
    need_tunnel(vm, recipe, tunnel)
    return Links(
        through=through,
        clients=planned_clients(vm, description, through.clients if through else None),
        passed=clients_of(vm, description),
        own=endpoint_rules(tunnel) if tunnel else (),
        resolver=description.host.resolver,
    )


def clients_that_run(places: Places, gateway: Vm, description: Description) -> tuple[str, ...]:
    """Return the names of the running VMs that go through ``gateway``."""
    return tuple(vm.name for vm in clients_of(gateway, description) if live_qemu(places.vm_run(vm.name)) is not None)


def gateway_state(places: Places, vm: Vm, description: Description) -> str | None:
    """Return a sentence on the gateway of a running ``vm``, or None where it has none."""
    gateway = find_gateway(vm, description)
    if gateway is None:
        return None
    clients = read_clients(places, gateway, description)
    if clients is None:
        return f"{gateway.name} does not run, so this VM has no network; okubsd start {gateway.name}"
    if clients.number(vm.name) is None:
        return f"{gateway.name} runs without a link to this VM; okubsd restart {gateway.name}"
    return f"{gateway.name} runs"


# What a running gateway is told when rules change, in a tar(5); it is taken whole or not at all.
_RELOAD = "mkdir -p /run/okubsd/gateway/new && tar -xf - -C /run/okubsd/gateway/new && /usr/lib/okubsd/gateway reload"


def push_rules(places: Places, gateway: Vm, description: Description, recipe: Recipe) -> bool:
    """Give a running ``gateway`` the rules of the description; return whether it runs.

    Raises Problem where it does not take them.
    """
    clients = read_clients(places, gateway, description)
    if clients is None:
        return False
    tunnel = _tunnel_of(gateway)
    texts = gateway_texts(clients_of(gateway, description), clients, tunnel, recipe.proxy, time.time())
    guest = Guest.find(places, gateway)
    done = guest.ask(("sh", "-c", _RELOAD), user=ROOT, data=_packed(texts), timeout=30)
    if done.code != 0:
        raise Problem(f"{gateway.name}: it does not take the new rules: {door.reason(done)}")
    return True


def _packed(texts: Mapping[str, str]) -> bytes:
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o600
            archive.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()
