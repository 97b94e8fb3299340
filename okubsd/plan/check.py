"""Judge compiled files on any host, by the grammar and the limits of OpenBSD as okubsd knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from okubsd.config.parse_y import ConfError
from okubsd.pf.grammar import parse_pf
from okubsd.pf.rule_grammar import PfHost
from okubsd.pf.rules import Ruleset
from okubsd.pf.rules import traps as pf_traps
from okubsd.pf.site import defeats, parse_site
from okubsd.plan.changes import Stat
from okubsd.plan.compile import ANCHORS, Compiled
from okubsd.vmd import conf, grammar

# Stands for the guest's address where a VM does not run: the first that vmd gives (vm.conf(5), local prefix).
SOME_GUEST = "100.64.1.3"


def compiled_mistakes(compiled: Compiled, wanted: Mapping[str, Stat | None]) -> list[str]:
    """Return what OpenBSD would refuse of the ``wanted`` files, or take without doing what they say.

    A sentence each, beginning with file and line.
    """
    found = _vm_conf_mistakes(wanted)
    found += _pf_mistakes("etc/pf.conf", wanted)
    for vm in compiled.vms:
        found += _pf_mistakes(f"{ANCHORS}/{vm.vm.name}.conf", wanted)
    return found


def _reader(wanted: Mapping[str, Stat | None]) -> Callable[[str], str | None]:
    def read(path: str) -> str | None:
        stat = wanted.get(path.lstrip("/"))
        return stat.text if stat else None

    return read


def _vm_conf_mistakes(wanted: Mapping[str, Stat | None]) -> list[str]:
    stat = wanted.get("etc/vm.conf")
    if stat is None:
        return []
    try:
        found_conf = grammar.parse_conf(stat.text, grammar.Host(read=_reader(wanted)))
    except ConfError as error:
        return [f"/etc/vm.conf:{error}"]
    found = [f"/etc/vm.conf:{mistake}" for mistake in conf.load_errors(found_conf)]
    return found + [f"/etc/vm.conf: {trap}" for trap in conf.traps(found_conf)]


def _pf_mistakes(path: str, wanted: Mapping[str, Stat | None]) -> list[str]:
    if wanted.get(path) is None:
        return []
    try:
        ruleset = read_rules(path, wanted)
    except ConfError as error:
        return [f"/{path}:{error}"]
    return [f"/{path}:{trap}" for trap in pf_traps(ruleset)] + [f"/{path}: {trap}" for trap in defeats(ruleset)]


_SITE = "etc/pf.conf"


def read_rules(path: str, files: Mapping[str, Stat | None], guest: str = SOME_GUEST) -> Ruleset:
    """Return the rules of the file at ``path``; ``guest`` is what an anchor's $G stands for.

    Of the site's own file that is what we read of it.  Raises ConfError.
    """
    stat = files.get(path)
    text = stat.text if stat else ""
    host = PfHost(read=_reader(files))
    if path == _SITE:
        return parse_site(text, f"/{path}", host)[0]
    macros = {"G": guest} if path.startswith(ANCHORS) else {}
    return parse_pf(text, f"/{path}", host, macros)


def unread_lines(wanted: Mapping[str, Stat | None]) -> list[int]:
    """Return the lines of the site's pf.conf that only pfctl(8) can judge."""
    stat = wanted.get(_SITE)
    try:
        return parse_site(stat.text if stat else "", f"/{_SITE}", PfHost(read=_reader(wanted)))[1]
    except ConfError:
        return []
