"""One call of okubsd: where things lie, what the user has described, and how to tell of progress."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from okubsd.config.names import GATEWAY_SUFFIX, VM_NAME, did_you_mean, quoted
from okubsd.errors import BadDescription, Unknown

if TYPE_CHECKING:
    from okubsd.host.places import Places
    from okubsd.model import Description, Vm
    from okubsd.recipe import Recipe

Report = Callable[[str], None]


def silent(line: str) -> None:
    """Tell nobody."""


class Session:
    """What every action needs: read when it is asked for first, and then known.

    ``given`` is the description that the user named, "" for the usual ones; ``report`` takes a line of progress,
    and ``quiet`` says that none is wanted.
    """

    def __init__(self, given: str = "", report: Report = silent, *, quiet: bool = False) -> None:
        self.given = given
        self.quiet = quiet
        self.report = report

    @classmethod
    def of(cls, places: Places, description: Description, recipes: dict[str, Recipe], report: Report) -> Session:
        """Return a session about a ``description`` that lies in no file."""
        made = cls(report=report)
        made.__dict__.update(places=places, description=description, recipes=recipes)
        return made

    @functools.cached_property
    def places(self) -> Places:
        """Return the places of this user."""
        from okubsd.host.places import find_places

        return find_places()

    @functools.cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Return all recipes by name.  Raises BadDescription for mistakes in one."""
        from okubsd.host.reading import read_recipes

        return read_recipes(self.places)

    @functools.cached_property
    def description(self) -> Description:
        """Return the description.  Raises BadDescription for its mistakes."""
        from okubsd.host.reading import read_description

        found = read_description(self.places, self.given, self.recipes)
        if any(vm.locale != "C" for vm in found.vms):
            from okubsd.config.locales import with_locales

            self.recipes.update(with_locales(self.recipes, found.vms))
        return found

    @functools.cached_property
    def known_description(self) -> Description | None:
        """Return the description, or None where it has mistakes: one line says so, and what runs is known anyway."""
        from okubsd.host.reading import find_description

        # One that is not there at all is the caller's mistake.
        find_description(self.places, self.given)
        try:
            return self.description
        except BadDescription as error:
            more = f" and {len(error.mistakes) - 1} more" if len(error.mistakes) > 1 else ""
            self.report(f"the description has mistakes, only what runs is known: {error.mistakes[0]}{more}")
            return None

    @functools.cached_property
    def known_recipes(self) -> dict[str, Recipe]:
        """Return all recipes by name, none where one has mistakes."""
        try:
            return self.recipes
        except BadDescription:
            return {}

    def running_vm(self, name: str) -> Vm:
        """Return the VM called ``name`` as it was started, if it runs, whatever the description says now.

        Otherwise as vm() does.
        """
        from okubsd.host import running

        if VM_NAME.fullmatch(name) and running.is_running(self.places, name):
            return running.started_or_bare(self.places, name)
        return self.vm(name)

    def vm(self, name: str) -> Vm:
        """Return the VM called ``name``.  Raises Unknown, with the nearest name."""
        vm = self.description.find(name) or self._gateway(name)
        if vm is None:
            known = [known.name for known in self.description.vms]
            sentence = f"there is no VM {quoted(name)} in {self.description.path}{did_you_mean(name, known)}"
            raise Unknown(sentence, "okubsd list")
        return vm

    def _gateway(self, name: str) -> Vm | None:
        """Return the gateway called ``name`` that okubsd makes by itself, or None."""
        if not name.endswith(GATEWAY_SUFFIX):
            return None
        from okubsd.host.gateway import known_gateways

        return next((vm for vm in known_gateways(self.description) if vm.name == name), None)
