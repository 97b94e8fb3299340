"""Change the description: the rules of a VM, its name, and whether it is there; comments and all else stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from okubsd import layout
from okubsd.config.description import parse_description
from okubsd.config.edit import add_rule, remove_rule, rename_vm
from okubsd.config.rule import render_rule
from okubsd.errors import Problem
from okubsd.host import door, locks
from okubsd.host.places import Places
from okubsd.host.reading import drop_ins_of, read_trusted, understood
from okubsd.host.session import Session
from okubsd.host.trust import is_root
from okubsd.model import Description, Vm
from okubsd.rules import Rule


def file_of(description: Description, vm: Vm) -> tuple[Path, str | None]:
    """Return the file that describes ``vm``, and its name there: None in a file of one VM only."""
    drop_in = description.path.parent / "vm.d" / f"{vm.name}.yaml"
    return (drop_in, None) if drop_in.is_file() else (description.path, vm.name)


def change(session: Session, vm: Vm, edit: Callable[[str, str | None], str]) -> Session:
    """Edit the description by ``edit`` (text and name to text), and return it as it is then.

    Nothing is written unless the new text is a description in which nothing but the rules of ``vm`` changed.
    Raises Problem or BadDescription.
    """
    path, name = file_of(session.description, vm)
    _refuse_sample(session.places, path)
    door.make_private(session.places.state)
    with locks.locked(session.places.state / layout.DESCRIPTION_LOCK):
        old = read_trusted(path)
        text = edit(old, name)
        description = _parse(session, path, text)
        _compare(session.description, description, vm)
        _write(path, text)
    return Session.of(session.places, description, session.recipes, session.report)


def rename(session: Session, vm: Vm, new: str) -> None:
    """Call ``vm`` by the name ``new`` in the description.  Raises Problem or BadDescription where that cannot be."""
    path, name = file_of(session.description, vm)
    _refuse_sample(session.places, path)
    with locks.locked(session.places.state / layout.DESCRIPTION_LOCK):
        if name is None:
            target = path.with_name(f"{new}.yaml")
            if target.exists():
                raise Problem(f"{target} is there already", "choose another name")
            _parse(session, path, read_trusted(path), called=target)
            path.rename(target)
            return
        text = rename_vm(read_trusted(path), vm.name, new)
        description = _parse(session, path, text)
        if {other.name for other in description.vms} != {other.name for other in session.description.vms} - {
            vm.name
        } | {new}:
            raise Problem(f"'{vm.name}' cannot be renamed without changing more", "edit the description by hand")
        _write(path, text)


def forget(session: Session, vm: Vm, edit: Callable[[str, str], str]) -> None:
    """Take ``vm`` out of the description.  Raises Problem or BadDescription where that cannot be."""
    path, name = file_of(session.description, vm)
    _refuse_sample(session.places, path)
    with locks.locked(session.places.state / layout.DESCRIPTION_LOCK):
        if name is None:
            _parse(session, path, None)
            path.unlink()
            return
        text = edit(read_trusted(path), vm.name)
        description = _parse(session, path, text)
        if {other.name for other in description.vms} != {other.name for other in session.description.vms} - {vm.name}:
            raise Problem(f"'{vm.name}' cannot be taken out without changing more", "edit the description by hand")
        _write(path, text)


def _refuse_sample(places: Places, path: Path) -> None:
    if path.is_relative_to(places.share):
        config = "~/.config/okubsd/okubsd.yaml"
        raise Problem(
            f"{path} is the sample that came with okubsd, and only a copy is changed",
            f"install -D -m 0644 {path} {config}",
        )


def _write(path: Path, text: str) -> None:
    """Write a description; whoever edits it, it stays whose it was, and a link to it stays one."""
    real = path.resolve()
    status = real.stat()
    owner = (status.st_uid, status.st_gid) if is_root() else None
    door.write(real, text.encode(), status.st_mode & 0o777, owner=owner)


def _parse(session: Session, path: Path, text: str | None, called: Path | None = None) -> Description:
    """Return the description with ``text`` in the place of the file ``path``, None for no such drop-in.

    ``called`` is the name that the file is to have.  Raises BadDescription where that would be none.
    """
    main = session.description.path
    texts = [
        (called or drop_in if drop_in == path else drop_in, text if drop_in == path else read_trusted(drop_in))
        for drop_in in drop_ins_of(main)
    ]
    there = [(drop_in, own) for drop_in, own in texts if own is not None]
    main_text = text if path == main and text is not None else read_trusted(main)
    return understood(parse_description(main, main_text, there, session.recipes))


def _compare(before: Description, after: Description, vm: Vm) -> None:
    """Raise Problem where more than the rules of ``vm`` differs."""

    def bare(description: Description) -> object:
        vms = [
            msgspec.structs.replace(v, rules=() if v.name == vm.name else _unplaced(v.rules)) for v in description.vms
        ]
        return vms, description.host, description.networks

    if bare(before) != bare(after):
        raise Problem(f"the description of '{vm.name}' cannot be changed without changing more", "edit it by hand")


def _unplaced(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Return ``rules`` without their lines, which an edit above them moves."""
    return tuple(msgspec.structs.replace(rule, line=0) for rule in rules)


def add(session: Session, vm: Vm, key: str, element: str) -> Session:
    """Put a rule, as a YAML ``element``, below ``key`` (allow or deny) of ``vm``."""
    return change(session, vm, lambda text, name: add_rule(text, name, key, element))


def remove(session: Session, vm: Vm, rule: Rule) -> Session:
    """Take a rule out.  Raises Problem where it is none of those in the VM's own lists."""
    key = "allow" if rule.allow else "deny"
    own = [found for found in vm.rules if found.allow == rule.allow]
    # The rules of a preset come after those of the lists, and are not in them.
    index = next((i for i, found in enumerate(own) if same(found, rule)), None)
    if index is None:
        known = ", ".join(f"'{render_rule(found)}'" for found in vm.rules) or "none"
        raise Problem(f"VM '{vm.name}' has no rule '{render_rule(rule)}', it has {known}", f"okubsd net show {vm.name}")
    return change(session, vm, lambda text, name: remove_rule(text, name, key, index))


def same(one: Rule, other: Rule) -> bool:
    """Return whether two rules say the same of the same packets."""
    return (one.allow, one.target, one.ports, one.protocol) == (other.allow, other.target, other.ports, other.protocol)
