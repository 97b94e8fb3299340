"""Give a VM the microphone of this host, for as long as its label says so.

What shows the VM's windows is told first, by a connection that stays open: it says "microphone" in every label of the
VM until that ends, whatever becomes of us; and where it ends, so does the microphone.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

from okubsd.errors import HostLacks, Problem
from okubsd.guest.ssh import remote_command
from okubsd.host import door, programs, running, windows
from okubsd.host.guest import Guest
from okubsd.host.places import find_places
from okubsd.model import Argv
from okubsd.sound import recorder_argv, recorders

HEAR: Argv = ("/usr/lib/okubsd/sound", "mic")

# How often is looked whether either end has ended, in seconds.
_LOOK_SECONDS = 0.2
# What is passed on at once, in bytes: whole samples.
_CHUNK = 4096


def find_recorder() -> str:
    """Return the program that records here.  Raises HostLacks where there is none."""
    names = recorders(openbsd=sys.platform.startswith("openbsd"))
    found = next((name for name in names if programs.find_program(name)), "")
    if not found:
        raise HostLacks(f"this host has none of {', '.join(names)} to record with", "okubsd doctor")
    return found


def give(guest: Guest, mark: socket.socket) -> None:
    """Record for ``guest`` until the recording ends, the guest does, or the open file ``mark``."""
    recorder = door.begin(recorder_argv(find_recorder(), guest.vm.name), errors=False)
    try:
        call = door.listen((*guest.argv("-T"), remote_command(HEAR)), subprocess.PIPE)
        try:
            _pass_on(recorder, call, mark)
        finally:
            door.end_process(recorder)
            door.end_listening(call)
    finally:
        door.end_process(recorder)


def _pass_on(recorder: subprocess.Popen[bytes], call: subprocess.Popen[bytes], mark: socket.socket) -> None:
    """Pass on what is recorded, by ourselves: when we end, however that is, neither end has the other any more."""
    assert recorder.stdout is not None and call.stdin is not None
    os.set_blocking(call.stdin.fileno(), False)
    while call.poll() is None:
        ready, _, _ = select.select([recorder.stdout.fileno(), mark.fileno()], [], [], _LOOK_SECONDS)
        if mark.fileno() in ready:
            return
        samples = os.read(recorder.stdout.fileno(), _CHUNK) if ready else b""
        if ready and not samples:
            return
        try:
            # What the guest does not take is gone: nobody hears what was said before.
            if samples:
                os.write(call.stdin.fileno(), samples)
        except BlockingIOError:
            continue
        except OSError:
            return


def main() -> int:
    """Give one VM the microphone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    places = find_places()
    guest = Guest.find(places, running.started_or_bare(places, sys.argv[1]))
    try:
        with windows.marked(guest.run) as mark:
            give(guest, mark)
    except Problem as problem:
        print(f"okubsd: {problem.sentence}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
