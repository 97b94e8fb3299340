"""The shared memory of an X server, for python-xlib, which has none (MIT-SHM 1.2: shmproto.h).

Only what the painter needs: memory of its own, handed to its own server with a descriptor, and images out of it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from Xlib.error import CatchError
from Xlib.protocol import rq

NAME = "MIT-SHM"


class _QueryVersion(rq.ReplyRequest):  # type: ignore[misc]
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(0), rq.RequestLength())
    _reply = rq.Struct(
        rq.ReplyCode(), rq.Bool("pixmaps"), rq.Card16("sequence_number"), rq.ReplyLength(),
        rq.Card16("major_version"), rq.Card16("minor_version"), rq.Card16("uid"), rq.Card16("gid"),
        rq.Card8("pixmap_format"), rq.Pad(15),
    )  # fmt: skip


class _AttachFd(rq.Request):  # type: ignore[misc]
    _request = rq.Struct(
        rq.Card8("opcode"), rq.Opcode(6), rq.RequestLength(), rq.Card32("segment"), rq.Bool("read_only"), rq.Pad(3)
    )


class _PutImage(rq.Request):  # type: ignore[misc]
    _request = rq.Struct(
        rq.Card8("opcode"), rq.Opcode(3), rq.RequestLength(), rq.Drawable("drawable"), rq.GC("gc"),
        rq.Card16("total_width"), rq.Card16("total_height"), rq.Card16("src_x"), rq.Card16("src_y"),
        rq.Card16("src_width"), rq.Card16("src_height"), rq.Int16("dst_x"), rq.Int16("dst_y"),
        rq.Card8("depth"), rq.Card8("format"), rq.Bool("send_event"), rq.Pad(1), rq.Card32("segment"),
        rq.Card32("offset"),
    )  # fmt: skip


class Segment:
    """Memory that the X server reads images from."""

    def __init__(self, display: Any, opcode: int, size: int) -> None:
        """Hand ``size`` bytes to the server of ``display``.  Raises OSError where it does not take them."""
        self._display, self._opcode = display, opcode
        descriptor = _memory(size)
        try:
            self.memory = mmap.mmap(descriptor, size)
            self._id = display.display.allocate_resource_id()
            self._attach(descriptor)
        finally:
            os.close(descriptor)

    def _attach(self, descriptor: int) -> None:
        """Send AttachFd with its descriptor, beside its bytes and nothing else's."""
        failed = CatchError()
        self._display.sync()
        inner = self._display.display
        request = _AttachFd(display=inner, onerror=failed, opcode=self._opcode, segment=self._id, read_only=1)
        # Queued and counted, and alone in the queue: it is sent from here instead.
        inner.request_queue.pop()
        socket.send_fds(inner.socket, [request._binary], [descriptor])
        inner.sent_requests.append(request)
        self._display.sync()
        if failed.get_error() is not None:
            raise OSError("the X server takes no shared memory")

    def put(self, drawable: Any, gc: Any, x: int, y: int, width: int, height: int, depth: int) -> None:
        """Draw the image of ``width`` and ``height`` that lies at the beginning of the memory."""
        _PutImage(
            display=self._display.display, opcode=self._opcode, drawable=drawable, gc=gc, total_width=width,
            total_height=height, src_x=0, src_y=0, src_width=width, src_height=height, dst_x=x, dst_y=y, depth=depth,
            format=2, send_event=0, segment=self._id, offset=0,
        )  # fmt: skip


def _memory(size: int) -> int:
    """Return the descriptor of ``size`` bytes that nobody can shrink, or of a file without a name."""
    if hasattr(os, "memfd_create"):
        import fcntl

        descriptor = os.memfd_create("okubsd-glass", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor
    descriptor, name = tempfile.mkstemp(prefix="okubsd-glass-")
    Path(name).unlink()
    os.ftruncate(descriptor, size)
    return descriptor


def segment_of(display: Any, size: int) -> Segment | None:
    """Return memory shared with the server of ``display``, None where it has none to share (another host's)."""
    found = display.query_extension(NAME)
    if found is None or not found.present or display.display.socket.family != socket.AF_UNIX:
        return None
    with contextlib.suppress(OSError):
        version = _QueryVersion(display=display.display, opcode=found.major_opcode)
        if (version.major_version, version.minor_version) >= (1, 2):
            return Segment(display, found.major_opcode, size)
    return None
