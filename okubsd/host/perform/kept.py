"""The steps for what a VM has before it boots: images, keys, its home, and the files that say who it is."""

from __future__ import annotations

import os
import time

import msgspec

from okubsd import layout
from okubsd.errors import Problem
from okubsd.guest.identity import Awake, render_identity
from okubsd.guest.reseed import SEED_BYTES
from okubsd.guest.ssh import render_ssh_config
from okubsd.host import door, keys, store
from okubsd.host.gateway_files import entries_of
from okubsd.host.performance import Performance
from okubsd.host.running import start_anew, write_builds
from okubsd.host.zone import zone_of
from okubsd.plan import steps
from okubsd.plan.images import images_of
from okubsd.qemu.argv import IDENTITY_BYTES


def build_images(step: steps.BuildImages, performance: Performance) -> None:
    """Build images, bases first."""
    from okubsd.host import builder

    places, recipes = performance.places, performance.session.recipes
    for name in step.names:
        builder.build(places, recipes[name], performance.report)
    if not step.app:
        return
    try:
        store.check_fit(places, [store.need_image(places, name) for name in (step.app, recipes[step.app].base)])
    except Problem as problem:
        performance.report(f"{problem.sentence}; it is built anew")
        builder.build(places, recipes[step.app], performance.report, force=True)


def verify_images(step: steps.VerifyImages, performance: Performance) -> None:
    """Compare images with their manifests."""
    places = performance.places.of_system if step.of_system else performance.places
    images = [store.need_image(places, name, step.builds.get(name, "")) for name in step.names]
    store.verify(places, images, performance.places.state)
    store.check_fit(places, images)


def make_keys(step: steps.MakeKeys, performance: Performance) -> None:
    """Make the keys of a VM."""
    keys.make_keys(step.directory, step.alias)


def make_home(step: steps.MakeHome, performance: Performance) -> None:
    """Make a home drive aside, and give it its name when it is whole."""
    made = step.path.with_name(layout.HOME_NEW)
    try:
        with made.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.truncate(step.size)
        door.must(step.argv, f"making the home drive {step.path}", timeout=120)
        made.rename(step.path)
    finally:
        made.unlink(missing_ok=True)


def grow_home(step: steps.GrowHome, performance: Performance) -> None:
    """Make a home drive longer."""
    with step.path.open("r+b") as stream:
        stream.truncate(step.size)
        os.fsync(stream.fileno())


def write_initrd(step: steps.WriteInitrd, performance: Performance) -> None:
    """Write what one boot of QEMU's starts from."""
    run = step.path.parent
    start_anew(run, step.vm)
    names = images_of(step.vm, performance.session.recipes)
    write_builds(run, store.current_builds(performance.places, names) | step.builds)
    cookie = keys.make_cookie(run)
    secrets = keys.read_secrets(step.keys, cookie)
    conf = entries_of(step.vm, step.conf)
    awake = Awake(os.urandom(SEED_BYTES), round(time.time())) if step.saved else None
    identity = render_identity(step.vm, step.lease, secrets, gateway=conf, zone=zone_of(step.vm), awake=awake)
    archives = b"".join(path.read_bytes() for path in step.boot)
    # A saved machine has a drive of that size.
    data = identity.ljust(IDENTITY_BYTES, b"\0") if step.saved else identity + archives
    door.write(step.path, data, lasting=False)
    if step.conf is not None:
        door.write(run / layout.CLIENTS, msgspec.json.encode(step.conf.clients), lasting=False)


def write_ssh_config(step: steps.WriteSshConfig, performance: Performance) -> None:
    """Write the ssh_config of a guest that boots, by which it can be reached."""
    from okubsd.host.monitor import monitor

    address, port = performance.fill((step.address,))[0], 22
    if not address:
        address = "127.0.0.1"
        with monitor(step.run / layout.QMP) as qemu:
            port = qemu.ssh_port()
    keys.check_keys(step.keys)
    # QEMU has read it, and it holds the guest's host key.
    for name in (layout.INITRD, layout.IDENTITY):
        (step.run / name).unlink(missing_ok=True)
    config = render_ssh_config(step.vm, address, port, step.keys, step.run, patient=step.patient)
    door.write(step.path, config.encode(), lasting=False)
