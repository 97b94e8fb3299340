"""Choose the seat of a VM: the only place that knows of all of them, and loads only the one that is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okubsd.errors import HostLacks, Problem
from okubsd.model import Backend, Vm

if TYPE_CHECKING:
    from okubsd.plan.facts import HostFacts
    from okubsd.plan.seats.base import Seat
    from okubsd.vmd.helper import Record


def engine_for(vm: Vm, backends: frozenset[Backend]) -> Backend:
    """Return what runs ``vm`` on a host that has these ``backends``.

    Raises HostLacks where the description asks for one that is not there.
    """
    if vm.backend is Backend.VMD and Backend.VMD not in backends:
        raise HostLacks(f"VM '{vm.name}' is for vmd, and this host has none", "say 'backend: auto' or 'backend: qemu'")
    return Backend.VMD if Backend.VMD in backends and vm.backend is not Backend.QEMU else Backend.QEMU


def choose_seat(vm: Vm, host: HostFacts, record: Record | None) -> Seat:
    """Return where ``vm`` is to run; ``record`` is what root wrote down of it on a host with vmd.

    Raises HostLacks where the description asks for a vmd that is not there, Problem where there is one that
    does not know the VM yet: it does not fall to a weaker wall by itself.
    """
    engine = engine_for(vm, host.backends)
    said = "the description says so"
    if Backend.VMD in host.backends:
        return _beside_vmd(vm, engine, record, said if vm.backend is not Backend.AUTO else "this host has one", host)
    why = said if vm.backend is Backend.QEMU else "this host has no vmd"
    weakness = host.weakness(vm.network)
    if weakness:
        from okubsd.plan.seats.qemu import Bare

        return Bare(why=why, root=host.root, weakness=weakness)
    from okubsd.plan.seats.namespace import Namespace

    return Namespace(why=why, root=host.root)


def _beside_vmd(vm: Vm, engine: Backend, record: Record | None, why: str, host: HostFacts) -> Seat:
    if record is None:
        raise Problem(f"VM '{vm.name}' was not installed on this host yet", "doas okubsd apply")
    return seat_of_record(record, why=why, engine=engine, root=host.root)


def seat_of_record(record: Record, *, engine: Backend, why: str = "", root: bool) -> Seat:
    """Return the seat on a host with vmd of a VM that ``engine`` runs."""
    if engine is Backend.VMD:
        from okubsd.plan.seats.vmd import Vmd

        return Vmd(record=record, why=why, root=root)
    from okubsd.plan.seats.tap import Tap

    return Tap(record=record, why=why, root=root)
