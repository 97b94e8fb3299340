"""A guest that runs: the one way to ask it something, whatever runs it and wherever it can be reached from."""

from __future__ import annotations

import getpass
import secrets
from pathlib import Path

from okubsd import layout
from okubsd.errors import Problem
from okubsd.guest.ssh import USER, call_command, end_call_command, remote_command, ssh_argv
from okubsd.host import door, facts, programs
from okubsd.host.places import Places
from okubsd.model import Argv, Vm
from okubsd.plan.seats.base import Seat

ROOT = "root"

# What a call that only looks at something may take, in seconds.
LOOK_SECONDS = 10.0


class Guest:
    """What can be asked of a running VM; where it runs was looked up once."""

    def __init__(self, vm: Vm, run: Path, seat: Seat, *, connected: bool = False) -> None:
        self.vm = vm
        self.run = run
        self.seat = seat
        # Whether the shared connection, which the windows hang on, is open.
        self.connected = connected

    @classmethod
    def find(cls, places: Places, vm: Vm) -> Guest:
        """Return the guest of ``vm``.  Raises Problem where it does not run, still starts, or stands still."""
        state = facts.ask_vm(places, vm.name)
        if state.seat is None:
            raise Problem(f"VM '{vm.name}' is not running", f"okubsd start {vm.name}")
        if not (state.run / layout.SSH_CONFIG).exists():
            _refuse_others(places, vm.name)
            raise Problem(f"VM '{vm.name}' is still starting", "try again in a moment")
        if state.stall:
            raise Problem(f"VM '{vm.name}' stands still: {state.stall}", f"okubsd status {vm.name}")
        return cls(vm, state.run, state.seat, connected=state.connected)

    def argv(self, *options: str, user: str = USER) -> Argv:
        """Return ssh to the guest with ``options``, as far as the host name."""
        return self.seat.reach(ssh_argv(self.vm, self.run, *options, user=user))

    def ask(
        self,
        words: Argv,
        *,
        user: str = USER,
        timeout: float = LOOK_SECONDS,
        data: bytes = b"",
        largest: int = door.MOST_OF_A_GUEST,
    ) -> door.Done:
        """Run the command ``words`` in the guest and return how it went, bounded in seconds and bytes (door.ask)."""
        argv = (*self.argv("-T", user=user), remote_command(words))
        return door.ask(argv, timeout=timeout, data=data, largest=largest)

    def stream(self, words: Argv, clean_out: door.Clean, clean_err: door.Clean, *, user: str = USER) -> int:
        """Run the command ``words`` with the user's input and output, and return its exit code.

        When the user ends it, or nobody reads it any more, it ends in the guest too.
        """
        mark = secrets.token_hex(8)
        ssh = self.argv("-T", user=user)
        try:
            code = door.stream((*ssh, call_command(words, mark)), clean_out, clean_err)
        except KeyboardInterrupt:
            door.ask((*ssh, end_call_command(mark)), timeout=LOOK_SECONDS)
            raise
        if code == door.NOBODY_READS:
            door.ask((*ssh, end_call_command(mark)), timeout=LOOK_SECONDS)
        return code

    def interactive(self, command: str, *, user: str = USER, terminal: bool) -> int:
        """Run ``command`` on the user's own terminal, and return its exit code."""
        return door.call_interactive((*self.argv("-t" if terminal else "-T", user=user), command))


def _refuse_others(places: Places, name: str) -> None:
    """Raise Problem where the VM is another user's: its keys, and the way to its guest, are his alone."""
    if not programs.has_vmd():
        return
    from okubsd.host.records import read_record

    record = read_record(places, name)
    if record is not None and record.owner != getpass.getuser():
        hint = f"doas -u {record.owner} okubsd list"
        raise Problem(f"VM '{name}' is {record.owner}'s, who alone reaches its guest", hint)
