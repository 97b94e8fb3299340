"""One look at the host and its VMs; nothing here changes anything."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from okubsd import layout
from okubsd.errors import Problem
from okubsd.host import keys, locks, programs, store
from okubsd.host.engine import engine
from okubsd.host.homes import home_sizes
from okubsd.host.places import Places
from okubsd.host.running import live_display
from okubsd.host.sockets import listener_pid
from okubsd.host.trust import is_root
from okubsd.model import Backend, Image, Kind, Vm
from okubsd.needs import package_hint
from okubsd.plan.facts import Accelerator, HostFacts, VmFacts
from okubsd.plan.seats import engine_for
from okubsd.qemu.argv import QEMU

_NEEDED = (QEMU, "ssh", "mke2fs", "Xephyr", "Xvfb", "nft", "drill")

# The program that keeps the addresses of names: the one that gateways have too.
_NAMES = "images/base/files/usr/lib/okubsd/names"


def backends() -> frozenset[Backend]:
    """Return what could run a VM here."""
    return frozenset({Backend.VMD, Backend.QEMU} if programs.has_vmd() else {Backend.QEMU})


def _ask_engines(places: Places, name: str) -> Mapping[str, Any]:
    """Return what the engine that runs the VM called ``name`` says of it, nothing where none does."""
    there = backends()
    said = (engine(backend).state(places, name) for backend in (Backend.VMD, Backend.QEMU) if backend in there)
    return next(filter(None, said), {})


def ask_vm(places: Places, name: str) -> VmFacts:
    """Return the state of the VM called ``name``."""
    directory, run = places.vm(name), places.vm_run(name)
    said = _ask_engines(places, name)
    socket = run / f"{layout.SSH_SOCKET}user"
    return VmFacts(
        name=name,
        directory=directory,
        run=run,
        display=live_display(run),
        nested=(run / layout.NESTED).exists(),
        glass=locks.is_alive(run / layout.GLASS_LIFE),
        attended=locks.is_alive(run / layout.ATTENDED_LIFE),
        connected=bool(said) and socket.exists() and listener_pid(socket) is not None,
        has_keys=keys.have_keys(directory),
        has_home=(directory / layout.HOME).exists(),
        home_size=home_sizes(places, (name,)).get(name, 0),
        **said,
    )


def ask_host(places: Places, vm: Vm | None = None) -> HostFacts:
    """Return the state of the host; the costly answers, which only a boot of ``vm`` needs, are asked for one."""
    there = backends()
    facts = HostFacts(
        root=is_root(),
        display=os.environ.get("DISPLAY", ""),
        image_files=places.images,
        images={image.name: image for image in store.all_images(places)},
        accelerator=Accelerator("", ""),
        wall="",
        backends=there,
        seccomp=sys.platform == "linux",
        now=time.time(),
        okubsd=programs.okubsd_argv(),
        glass=programs.glass_argv(),
        attending=programs.attending_argv(),
        names_program=places.share / _NAMES,
        missing={name: package_hint(name, sys.platform) for name in _NEEDED if programs.find_program(name) is None},
    )
    if vm is None:
        return facts
    images = _that_fit(places, facts.images, vm)
    return msgspec.structs.replace(facts, images=images, **engine(engine_for(vm, there)).host_facts(places))


def _that_fit(places: Places, images: dict[str, Image], vm: Vm) -> dict[str, Image]:
    """Return ``images`` without that of ``vm`` where it was built here and does not fit the base: it is to be anew."""
    app, bases = images.get(vm.image), [image for image in images.values() if image.kind is Kind.BASE]
    if app is None or not app.built_here or len(bases) != 1:
        return images
    try:
        store.check_fit(places, (app, bases[0]))
    except Problem:
        return {name: image for name, image in images.items() if name != vm.image}
    return images
