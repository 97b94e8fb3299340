"""Decide how an OpenBSD host gets from what it is now to what the description says: `apply` and `unapply`.

The order never opens a hole: candidates are judged before anything is replaced; what the new rules forbid is shut
and its flows ended; then files change and are read anew; what may pass is opened last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import msgspec

from okubsd import layout
from okubsd.errors import Problem
from okubsd.hostfile import FileState, HostFile
from okubsd.plan.changes import INTERFACE, Change, changes_to, is_ours, wanted_files
from okubsd.plan.compile import Compiled, CompiledVm
from okubsd.plan.interfaces import destroy_interfaces, interface_steps, port_of, remade_switches
from okubsd.plan.judge import is_anchor, judge_argv, judge_staged, judge_vms
from okubsd.plan.steps import Call, Finish, Journal, Plan, Remove, Replace, Step, Tidy
from okubsd.plan.sysctls import reset_sysctls, sysctls_before, wanted_sysctls
from okubsd.vmd.helper import Verb, helper_argv, opening, parse_record


class ApplyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at the host found.

    ``files`` are those that okubsd has or is to have, by path (None: not there); ``running`` the VMs that vmd runs
    by the numbers they were started with; ``drives`` the VMs that have theirs; ``taps`` the numbers whose device
    node is there, ``numbers`` those that VMs have already; ``images`` those that vmd can open overlays of;
    ``services`` the daemons that start at boot; ``interfaces`` the names of those that are there; ``sysctls`` the
    values of what okubsd has be 1 (sysctl(2)).
    """

    files: Mapping[str, FileState | None]
    running: Mapping[str, int]
    drives: frozenset[str] = frozenset()
    taps: frozenset[int] = frozenset()
    numbers: frozenset[int] = frozenset()
    images: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    interfaces: frozenset[str] = frozenset()
    sysctls: Mapping[str, str] = {}
    vmd_runs: bool = False
    pf_enabled: bool = True


def plan_apply(compiled: Compiled, facts: ApplyFacts) -> tuple[Plan, tuple[Change, ...]]:
    """Return the steps from ``facts`` to ``compiled``, () where nothing is to be done, and the changed files.

    Raises Problem where a running VM would lose its number or its description, or an image is missing.
    """
    wanted = wanted_files(compiled, facts.files)
    sysctls = wanted_sysctls(compiled)
    if sysctls:
        wanted[layout.SYSCTL_BEFORE] = sysctls_before(sysctls, facts.sysctls, facts.files)
    changes = changes_to(wanted, facts.files)
    _refuse_what_runs(compiled, facts)
    _refuse_foreign_files(compiled, facts)
    _need_images(compiled, facts)
    if not facts.pf_enabled:
        raise Problem("pf is not enabled, so nothing would keep a guest from this host", "rcctl enable pf && pfctl -e")
    services = [name for name in ("vmd", "okubsd") if name not in facts.services]
    creations = [vm.vm.name for vm in compiled.vms if _lacks_devices(vm, facts)]
    changed = any(change.path == layout.SITE_SYSCTL_CONF for change in changes)
    unset = [name for name in sysctls if changed and facts.sysctls.get(name) != "1"]
    if not (changes or services or creations):
        return (), ()
    by_path = {change.path: change for change in changes}
    remade = remade_switches(by_path)
    shut = [name for name in facts.running if _opens_otherwise(name, by_path) or _switch_of(name, facts) in remade]
    steps: list[Step] = []
    staged = _staged(changes, facts)
    if changes:
        steps += judge_staged(staged)
        steps.append(Journal(what="keep the old files until all is done", files=_old(changes)))
        steps += [_helper(Verb.CLOSE, name, "shut") for name in shut]
        steps += _records_first(changes)
    steps += [_helper(Verb.CREATE, name, "make the drives of") for name in creations]
    steps += judge_vms(staged)
    steps += [_replace(change) for change in changes if not _is_record(change)]
    steps += _reread(changes, services, vmd_runs=facts.vmd_runs, sysctls=unset)
    steps += [_helper(Verb.REMOVE, name, "forget the anchor of") for name in _removed(changes)]
    steps += destroy_interfaces(changes, facts.interfaces)
    steps += [_helper(Verb.OPEN, name, "open") for name in shut if compiled.find(name)]
    if any(
        change.path in (layout.SITE_PF_CONF, layout.PF_CONF)
        or change.path.startswith(f"{layout.QUEUES}/")
        # An interface that is made anew has lost its queue (observed).
        or INTERFACE.fullmatch(change.path)
        for change in changes
    ):
        steps += _shape(compiled, facts)
    if changes:
        steps.append(Finish(what="drop the old files"))
    return tuple(steps), changes


def _shape(compiled: Compiled, facts: ApplyFacts) -> list[Step]:
    """Return what loads the queues again: the main rules that were read have none; () where there are none to load."""
    queued = any(file.path.startswith(f"{layout.QUEUES}/") for file in compiled.files)
    had = any(path.startswith(f"{layout.QUEUES}/") and stat is not None for path, stat in facts.files.items())
    names = [vm.vm.name for vm in compiled.vms]
    return [_helper(Verb.SHAPE, names[0], "load the queues by the way of")] if (queued or had) and names else []


def plan_rules(
    name: str, files: Iterable[HostFile], now: Mapping[str, FileState | None], *, runs: bool
) -> tuple[Plan, tuple[Change, ...]]:
    """Return the steps that put the rules of one VM in force, () where they are, and the changed files.

    ``now`` are its ``files`` as they are, the one of its names among them also where there is none; every other VM,
    and every other file, is left alone.
    """
    wanted: dict[str, FileState | None] = dict.fromkeys(now)
    wanted |= {file.path: FileState(file.text, file.mode) for file in files}
    changes = changes_to(wanted, now)
    if not changes:
        return (), ()
    staged = {change.path: change.new.text for change in changes if change.new and is_anchor(change.path)}
    shut = [_helper(Verb.CLOSE, name, "shut")] if runs else []
    opened = [_helper(Verb.OPEN, name, "open")] if runs else []
    return (
        *judge_staged(staged),
        Journal(what="keep the old files until all is done", files=_old(changes)),
        *shut,
        *(_replace(change) for change in changes),
        *opened,
        Finish(what="drop the old files"),
    ), changes


def plan_unapply(facts: ApplyFacts) -> tuple[Plan, tuple[Change, ...]]:
    """Return the steps that take every file and block of okubsd's away; drives, images and homes stay.

    Raises Problem while one of the VMs runs.
    """
    nothing = Compiled(files=(), vms=(), group="")
    if facts.running:
        names = ", ".join(sorted(facts.running))
        raise Problem(f"these VMs run: {names}", "okubsd stop --all")
    changes = changes_to(wanted_files(nothing, facts.files), facts.files)
    if not changes:
        return (), ()
    staged = _staged(changes, facts)
    # The administrator's files let go of ours before ours are removed.
    ordered = sorted(changes, key=lambda change: is_ours(change.path))
    steps: list[Step] = [
        *judge_staged(staged),
        *judge_vms(staged),
        Journal(what="keep the old files until all is done", files=_old(changes)),
        *(_helper(Verb.REMOVE, name, "forget the anchor of") for name in _removed(changes)),
        *(_replace(change) for change in ordered),
        *_reread(changes, [], vmd_runs=facts.vmd_runs, sysctls=()),
        *reset_sysctls(facts.files.get(layout.SYSCTL_BEFORE)),
        *destroy_interfaces(changes, facts.interfaces),
    ]
    if "okubsd" in facts.services:
        steps.append(Call(what="take okubsd from the boot", argv=("rcctl", "disable", "okubsd")))
    steps.append(Tidy(what="remove empty directories", empty=layout.EMPTY_AT_LAST, transient=layout.VAR_RUN))
    steps.append(Finish(what="drop the old files"))
    return tuple(steps), changes


def plan_restore(
    journal: Mapping[str, FileState | None],
    running: Iterable[str],
    *,
    vmd_runs: bool,
    sysctl_before: FileState | None = None,
) -> Plan:
    """Return the steps back to the files of ``journal``, from whatever point an apply was cut short at.

    What runs is shut first and opened last, by the rules of before.  ``sysctl_before`` is the file of that name as
    the cut apply left it.
    """
    first = layout.SYSCTL_BEFORE in journal and journal[layout.SYSCTL_BEFORE] is None
    running = [name for name in running if journal.get(f"{layout.ANCHORS}/{name}.conf") is not None]
    changes = tuple(Change(path, None, stat) for path, stat in sorted(journal.items()))
    return (
        *(_helper(Verb.CLOSE, name, "shut") for name in running),
        # While the file that it is read from is still there: going back can be cut short, too.
        *reset_sysctls(sysctl_before if first else None),
        *(_replace(change) for change in changes),
        *_reread(changes, [], vmd_runs=vmd_runs, sysctls=()),
        *(_helper(Verb.OPEN, name, "open") for name in running),
        # An apply that was the first had okubsd started at boot; where it is undone, nothing of it is to be.
        *(
            [Call(what="take okubsd from the boot", argv=("rcctl", "disable", "okubsd"), may_fail=True)]
            if layout.NUMBERS in journal and journal[layout.NUMBERS] is None
            else []
        ),
        Finish(what="drop the old files"),
    )


def _lacks_devices(vm: CompiledVm, facts: ApplyFacts) -> bool:
    taps = {vm.number, *(nic.tap for nic in vm.nics)}
    return not taps <= facts.taps or (vm.by_vmd and vm.vm.name not in facts.drives)


def _refuse_what_runs(compiled: Compiled, facts: ApplyFacts) -> None:
    for name, number in facts.running.items():
        vm = compiled.find(name)
        if vm is None:
            raise Problem(f"VM '{name}' runs, and is described no more", f"okubsd stop {name}")
        if vm.number != number:
            raise Problem(f"VM '{name}' runs with the number {number} and would get {vm.number}", f"okubsd stop {name}")
        old = facts.files.get(f"{layout.RECORDS}/{name}")
        record = parse_record(old.text) if old else None
        if record is not None and (record.table, record.taps) != (vm.rdomain, " ".join(str(n.tap) for n in vm.nics)):
            raise Problem(f"VM '{name}' runs on another network than '{vm.vm.network.name}'", f"okubsd stop {name}")


def _refuse_foreign_files(compiled: Compiled, facts: ApplyFacts) -> None:
    """Raise Problem where a number is taken by an interface of the administrator's."""
    hint = "give the VM another 'number', or 'numbers' below 'host' another range"
    for vm in compiled.vms:
        for kind in ("lo", "tap"):
            name = f"{kind}{vm.number}"
            path = layout.hostname_if(name)
            if vm.number in facts.numbers:
                continue
            foreign = f"/{path}" if facts.files.get(path) is not None else name if name in facts.interfaces else ""
            if foreign:
                raise Problem(
                    f"{foreign} is not okubsd's, and VM '{vm.vm.name}' would get the number {vm.number}", hint
                )
    for file in compiled.files:
        match = INTERFACE.fullmatch(file.path)
        number = int(re.sub(r"\D", "", match[1])) if match else None
        if number is not None and number not in facts.numbers and facts.files.get(file.path) is not None:
            raise Problem(f"/{file.path} is not okubsd's, and a network would get the number {number}", hint)


def _need_images(compiled: Compiled, facts: ApplyFacts) -> None:
    missing = sorted({image for vm in compiled.vms for image in vm.images} - facts.images)
    if missing:
        names = ", ".join(missing)
        hint = f"on a Linux: okubsd image export FILE {' '.join(missing)}; here: doas okubsd image import FILE"
        raise Problem(f"these images are not on this host: {names}", hint)


def _helper(verb: Verb, name: str, what: str) -> Call:
    return Call(what=f"{what} {name}", argv=helper_argv(verb, name, root=True), timeout=120)


def _old(changes: tuple[Change, ...]) -> tuple[tuple[str, FileState | None], ...]:
    return tuple((change.path, change.old) for change in changes)


def _opens_otherwise(name: str, changes: Mapping[str, Change]) -> bool:
    """Return whether the network of the VM called ``name`` is another one now, so that it is opened anew."""
    if f"{layout.ANCHORS}/{name}.conf" in changes:
        return True
    record = changes.get(f"{layout.RECORDS}/{name}")
    if record is None or record.old is None or record.new is None:
        return False
    old, new = parse_record(record.old.text), parse_record(record.new.text)
    return old is None or new is None or opening(old) != opening(new)


def _switch_of(name: str, facts: ApplyFacts) -> str:
    """Return the switch that the VM called ``name`` is on now, "" for none."""
    return port_of(facts.files.get(f"{layout.RECORDS}/{name}")).partition(" ")[0]


def _is_record(change: Change) -> bool:
    return change.path.startswith(f"{layout.RECORDS}/")


def _records_first(changes: tuple[Change, ...]) -> list[Step]:
    """Return the replacing of the records, which the helper needs before it can make drives."""
    return [_replace(change) for change in changes if _is_record(change)]


def _removed(changes: tuple[Change, ...]) -> list[str]:
    return [PurePosixPath(change.path).name for change in changes if _is_record(change) and change.new is None]


def _replace(change: Change) -> Step:
    if change.new is None:
        return Remove(what=f"remove /{change.path}", path=change.path)
    return Replace(what=f"write /{change.path}", path=change.path, file=change.new)


def _reread(changes: tuple[Change, ...], services: list[str], *, vmd_runs: bool, sysctls: Iterable[str]) -> list[Step]:
    """Return what makes the host read what changed, and only that; vmd is started where it does not run."""
    paths = {change.path for change in changes}
    # A switch has to be there before vmd reads of it (observed: vmd ends otherwise).
    steps: list[Step] = interface_steps(changes)
    if paths & {layout.SITE_PF_CONF, layout.PF_CONF}:
        steps.append(Call(what="read the pf rules", argv=("pfctl", "-f", "/etc/pf.conf")))
    steps += [Call(what=f"set {name}", argv=("sysctl", f"{name}=1")) for name in sysctls]
    steps += [Call(what=f"start {name} at boot", argv=("rcctl", "enable", name)) for name in services]
    if "vmd" in services and not vmd_runs:
        steps.append(Call(what="start vmd", argv=("rcctl", "start", "vmd")))
    elif vmd_runs and paths & {layout.SITE_VM_CONF, layout.VM_CONF}:
        # vmd forgets every VM that does not run before it reads: the candidate was judged above.
        steps.append(Call(what="let vmd read its configuration", argv=("vmctl", "reload")))
    return steps


def _staged(changes: tuple[Change, ...], facts: ApplyFacts) -> dict[str, str]:
    """Return the candidates by path: changed files, and with one of a pair also the other that reads it or is read."""
    texts = {change.path: change.new.text for change in changes if change.new is not None}
    gone = {change.path for change in changes if change.new is None}
    mains = (layout.SITE_PF_CONF, layout.SITE_VM_CONF)
    staged = {path: text for path, text in texts.items() if path not in mains and judge_argv(path, path)}
    for main, part in ((layout.SITE_PF_CONF, layout.PF_CONF), (layout.SITE_VM_CONF, layout.VM_CONF)):
        if main not in gone and {main, part} & {change.path for change in changes}:
            # The candidate reads the candidate, not the file that is in force.
            text = texts.get(main, _text(facts, main))
            staged[main] = text.replace(f'"/{part}"', f'"/{layout.STAGE}/{part}"')
            staged[part] = texts.get(part, _text(facts, part))
    return staged


def _text(facts: ApplyFacts, path: str) -> str:
    stat = facts.files.get(path)
    return stat.text if stat else ""
