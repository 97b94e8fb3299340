"""Carry a clip from one clipboard to another, because the user said so, and write every crossing down."""

from __future__ import annotations

import contextlib
import json
import os
import time

from okubsd import layout
from okubsd.display.clip import HOST, LEASE, Clip, clip_of, describe, parse_clip, render_clip
from okubsd.errors import HostLacks, Problem
from okubsd.host import door, keys, running
from okubsd.host.places import Places
from okubsd.host.policy import need_leave
from okubsd.host.selection import Display, Offer, take
from okubsd.host.session import Session

# The log of crossings is kept twice, each at most so long.
_LONGEST_LOG = 1 << 20


def display_of(session: Session, name: str) -> Display:
    """Return the display of the VM ``name`` that runs, or of the desktop for HOST.  Raises Problem for none."""
    if name == HOST:
        desktop = os.environ.get("DISPLAY", "")
        if not desktop:
            raise HostLacks("there is no X display: DISPLAY is not set", "clip the VMs from an X session")
        return Display(HOST, desktop, None)
    vm = session.running_vm(name)
    run = session.places.vm_run(vm.name)
    number, cookie = running.live_display(run), keys.read_cookie(run)
    if number is None or cookie is None:
        raise Problem(f"VM '{vm.name}' shows nothing, so it has no clipboard", f"okubsd start {vm.name}")
    return Display(vm.name, f":{number}", cookie)


def copy(session: Session, source: str, *, raw: bool = False) -> Clip:
    """Take what the clipboard of ``source`` holds, and keep it until it is pasted.

    Raises Problem where it holds nothing that may cross.
    """
    kind, untrusted = take(display_of(session, source))
    try:
        clip = clip_of(source, kind, untrusted, raw=raw)
    except ValueError as error:
        raise Problem(f"{source}: {error}") from None
    door.make_private(session.places.state)
    door.write(session.places.state / layout.CLIP, render_clip(clip))
    return clip


def kept(places: Places) -> Clip | None:
    """Return the clip that was copied last and is not pasted yet, or None."""
    try:
        return parse_clip((places.state / layout.CLIP).read_bytes())
    except OSError:
        return None


def clear(places: Places) -> bool:
    """Forget the clip; return whether there was one."""
    try:
        (places.state / layout.CLIP).unlink()
    except FileNotFoundError:
        return False
    return True


def paste(session: Session, target: str, *, seconds: float = LEASE) -> tuple[Clip, str]:
    """Offer the clip to ``target`` for ``seconds``, once; return it and "taken", "replaced" or "over".

    It is forgotten, whatever comes of the offer.  Raises Problem where there is none, where the policy does not let it
    cross, or nowhere to offer it.
    """
    clip = kept(session.places)
    if clip is None:
        raise Problem("nothing was copied yet", "okubsd clip copy --help")
    try:
        need_leave(session, "clip", clip.source, target, describe(clip))
    except Problem:
        _write_down(session.places, clip, target, "refused")
        raise
    offer = Offer(display_of(session, target), clip, seconds)
    clear(session.places)
    outcome = "interrupted"
    try:
        outcome = offer.wait()
    finally:
        _write_down(session.places, clip, target, outcome)
    return clip, outcome


def _write_down(places: Places, clip: Clip, target: str, outcome: str) -> None:
    """Append a crossing to its log: who, to whom, what kind, how much, but not what."""
    path = places.state / layout.CROSSINGS
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LONGEST_LOG:
            path.replace(places.state / layout.OLD_CROSSINGS)
    said = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "service": "clip",
        "source": clip.source,
        "target": target,
        "kind": clip.kind,
        "bytes": len(clip.data),
        "outcome": outcome,
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, json.dumps(said).encode() + b"\n")
    finally:
        os.close(descriptor)


def crossings(places: Places, name: str = "") -> list[dict[str, object]]:
    """Return the crossings that were written down, the oldest first: all, or those from or to the VM ``name``."""
    found = []
    for log in (layout.OLD_CROSSINGS, layout.CROSSINGS):
        with contextlib.suppress(OSError):
            for line in (places.state / log).read_text(errors="replace").splitlines():
                # The last line of a host that lost its power may be half a one.
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
    return [entry for entry in found if not name or name in (entry.get("source"), entry.get("target"))]
