"""Carry a clip from one clipboard to another, because the user said so, and write every crossing down."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import msgspec

from okubsd import layout
from okubsd.display.clip import HOST, LARGEST, LEASE, Clip, clip_of, describe, parse_clip, render_clip
from okubsd.errors import HostLacks, Problem
from okubsd.host import door, keys, running
from okubsd.host.crossings import write_down
from okubsd.host.lifecycle import interruptible
from okubsd.host.places import Places
from okubsd.host.policy import judge_crossing, known_as, need_somebody
from okubsd.host.selection import Display, Offer, take
from okubsd.host.session import Session

# How long what was copied waits for its paste, in seconds.
KEPT = 300.0


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


def read(session: Session, source: str, *, raw: bool = False) -> Clip:
    """Return what the clipboard of ``source`` holds.

    Raises Problem where it holds nothing that may cross, or the policy lets it cross to nobody.
    """
    origin = known_as(session, source)
    need_somebody(session, "clip", origin)
    limit = session.known_description.host.clip_limit if session.known_description else LARGEST
    kind, untrusted = take(display_of(session, source), limit)
    try:
        clip = clip_of(source, kind, untrusted, raw=raw, limit=limit)
    except ValueError as error:
        raise Problem(f"{source}: {error}") from None
    return msgspec.structs.replace(clip, origin=origin)


def copy(session: Session, source: str, *, raw: bool = False) -> Clip:
    """Take what the clipboard of ``source`` holds, and keep it until it is pasted, for KEPT seconds; as read()."""
    clip = read(session, source, raw=raw)
    door.make_private(session.places.state)
    door.write(session.places.state / layout.CLIP, render_clip(clip))
    return clip


def kept(places: Places) -> Clip | None:
    """Return the clip that was copied last and is not pasted yet, or None; one that is too old is forgotten."""
    path = places.state / layout.CLIP
    try:
        if not 0 <= time.time() - path.stat().st_mtime <= KEPT:
            path.unlink()
            return None
        return parse_clip(path.read_bytes())
    except OSError:
        return None


def clear(places: Places) -> bool:
    """Forget the clip, and what a killed copy or paste left of one; return whether there was any."""
    found = [*places.state.glob(layout.CLIP), *places.state.glob(f".{layout.CLIP}.*")]
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


@contextlib.contextmanager
def _claimed(places: Places) -> Iterator[Clip]:
    """Have the kept clip for the block, and nobody else; afterwards it is forgotten.

    Where the block raises Problem before it was offered, it is kept again, unless something was copied since.
    """
    kept(places)
    path, mine = places.state / layout.CLIP, places.state / f".{layout.CLIP}.{os.getpid()}"
    try:
        path.rename(mine)
    except FileNotFoundError:
        raise Problem("nothing was copied yet", "okubsd clip copy --help") from None
    try:
        clip = parse_clip(mine.read_bytes())
        if clip is None:
            raise Problem(f"{path} holds no clip; it is forgotten")
        try:
            yield clip
        except Problem:
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
            raise
    finally:
        mine.unlink(missing_ok=True)


def paste(session: Session, target: str, tell: Callable[[Clip], None], *, seconds: float = LEASE) -> tuple[Clip, str]:
    """Offer the kept clip to ``target``, as give(); return it and what became of it.  It is forgotten then.

    Raises Problem where there is none, where the policy does not let it cross, or nowhere to offer it.
    """
    with _claimed(session.places) as clip:
        return clip, give(session, clip, target, tell, seconds=seconds)


def give(session: Session, clip: Clip, target: str, tell: Callable[[Clip], None], *, seconds: float = LEASE) -> str:
    """Offer ``clip`` to ``target`` for ``seconds``, once.

    Return "taken", "partly", "replaced" or "over".  ``tell`` is called when it may cross.  What is offered is
    written down before, and what came of it after.  Raises Problem as paste().
    """
    try:
        judge_crossing(session, "clip", clip.origin or clip.source, known_as(session, target), describe(clip))
    except Problem:
        _write_down(session.places, clip, target, "refused")
        raise
    display = display_of(session, target)
    _write_down(session.places, clip, target, "offered")
    outcome = "failed"
    try:
        with interruptible():
            offer = Offer(display, clip, seconds)
            tell(clip)
            outcome = offer.wait()
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        _write_down(session.places, clip, target, outcome)
    return outcome


def _write_down(places: Places, clip: Clip, target: str, outcome: str) -> None:
    write_down(places, "clip", clip.source, target, outcome, kind=clip.kind, bytes=len(clip.data))
