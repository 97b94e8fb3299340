"""What the seats of an OpenBSD host share: pf(4) holds the rules, and pf is root's."""

from __future__ import annotations

from okubsd.model import Vm
from okubsd.plan.steps import Plan, PutRules


def rules_by_pf(vm: Vm, *, root: bool) -> tuple[Plan, str]:
    """Return the steps that put the rules of ``vm`` in force, running or not, and what is so then."""
    if not root:
        return (), "it takes effect with: doas okubsd apply"
    return (PutRules(name=vm.name),), "it is in force"
