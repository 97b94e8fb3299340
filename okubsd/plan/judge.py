"""Judge files of an OpenBSD host: by its own parsers where they are, and by okubsd's knowledge of them anywhere.

`check` and `apply` both ask here, so that what one takes the other does not refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from okubsd import layout
from okubsd.config.parse_y import ConfError
from okubsd.hostfile import FileState
from okubsd.model import Argv
from okubsd.pf.grammar import parse_pf
from okubsd.pf.render import anchor_path
from okubsd.pf.rule_ends import PfHost
from okubsd.pf.rules import Ruleset
from okubsd.pf.rules import traps as pf_traps
from okubsd.pf.site import defeats, parse_site
from okubsd.plan.compile import Compiled
from okubsd.plan.steps import Call, Stage, Step
from okubsd.vmd import conf, grammar

# Stands for the guest's address where a VM does not run: the first that vmd gives (vm.conf(5), local prefix).
SOME_GUEST = "100.64.1.3"


def compiled_mistakes(compiled: Compiled, wanted: Mapping[str, FileState | None]) -> list[str]:
    """Return what OpenBSD would refuse of the ``wanted`` files, or take without doing what they say.

    A sentence each, beginning with file and line.
    """
    found = _vm_conf_mistakes(wanted)
    found += _pf_mistakes(layout.SITE_PF_CONF, wanted)
    for vm in compiled.vms:
        found += _pf_mistakes(f"{layout.ANCHORS}/{vm.vm.name}.conf", wanted)
    return found


def _reader(wanted: Mapping[str, FileState | None]) -> Callable[[str], str | None]:
    def read(path: str) -> str | None:
        stat = wanted.get(path.lstrip("/"))
        return stat.text if stat else None

    return read


def _vm_conf_mistakes(wanted: Mapping[str, FileState | None]) -> list[str]:
    stat = wanted.get(layout.SITE_VM_CONF)
    if stat is None:
        return []
    try:
        found_conf = grammar.parse_conf(stat.text, grammar.Host(read=_reader(wanted)))
    except ConfError as error:
        return [f"/etc/vm.conf:{error}"]
    found = [f"/etc/vm.conf:{mistake}" for mistake in conf.load_errors(found_conf)]
    return found + [f"/etc/vm.conf: {trap}" for trap in conf.traps(found_conf)]


def _pf_mistakes(path: str, wanted: Mapping[str, FileState | None]) -> list[str]:
    if wanted.get(path) is None:
        return []
    try:
        ruleset = read_rules(path, wanted)
    except ConfError as error:
        return [f"/{path}:{error}"]
    return [f"/{path}:{trap}" for trap in pf_traps(ruleset)] + [f"/{path}: {trap}" for trap in defeats(ruleset)]


def read_rules(path: str, files: Mapping[str, FileState | None], guest: str = SOME_GUEST) -> Ruleset:
    """Return the rules of the file at ``path``; ``guest`` is what an anchor's $G stands for.

    Of the site's own file that is what we read of it.  Raises ConfError.
    """
    stat = files.get(path)
    text = stat.text if stat else ""
    host = PfHost(read=_reader(files))
    if path == layout.SITE_PF_CONF:
        return parse_site(text, f"/{path}", host)[0]
    macros = {"G": guest} if path.startswith(layout.ANCHORS) else {}
    return parse_pf(text, f"/{path}", host, macros)


def unread_lines(wanted: Mapping[str, FileState | None]) -> list[int]:
    """Return the lines of the site's pf.conf that only pfctl(8) can judge."""
    stat = wanted.get(layout.SITE_PF_CONF)
    try:
        return parse_site(stat.text if stat else "", f"/{layout.SITE_PF_CONF}", PfHost(read=_reader(wanted)))[1]
    except ConfError:
        return []


# --- by the parsers of OpenBSD ---------------------------------------------------------------------


def is_anchor(path: str) -> bool:
    """Return whether the file at ``path`` is the anchor of a VM: not okubsd's part of the main rules beside them."""
    return path.startswith(f"{layout.ANCHORS}/")


# It wants every drive to be there when it reads its path.
VMD_JUDGE = ("/usr/sbin/vmd", "-n", "-f")


def judge_argv(path: str, candidate: str) -> Argv:
    """Return the call of OpenBSD's parser that judges the file ``candidate``, which is to be at ``path``; () for none.

    pfctl(8), doas(1) and dhcpd(8) have a way to read a file and to do nothing; vm.conf(5) needs its drives, too.
    """
    if path == layout.SITE_PF_CONF:
        return ("pfctl", "-n", "-f", candidate)
    if is_anchor(path):
        # Any address stands for the guest's.
        return ("pfctl", "-n", "-D", "G=100.64.0.3", "-a", anchor_path(PurePosixPath(path).stem), "-f", candidate)
    if path == layout.SITE_DOAS_CONF:
        return ("doas", "-C", candidate)
    if path.startswith(f"{layout.DHCPD}/"):
        return ("dhcpd", "-n", "-c", candidate)
    return ()


def judge_staged(staged: Mapping[str, str]) -> list[Step]:
    """Return the staging of candidates, and their judging by the parsers that need no drives."""
    steps: list[Step] = [Stage(what="write the candidates", files=tuple(sorted(staged.items())))]
    judged = ((path, judge_argv(path, f"/{layout.STAGE}/{path}")) for path in sorted(staged))
    return steps + [_call(f"/{path}", argv) for path, argv in judged if argv]


def judge_vms(staged: Mapping[str, str]) -> list[Step]:
    """Return the judging of vm.conf: vmd wants every drive to be there when it reads its path."""
    if layout.SITE_VM_CONF not in staged:
        return []
    return [_call("/etc/vm.conf", (*VMD_JUDGE, f"/{layout.STAGE}/{layout.SITE_VM_CONF}"))]


def _call(what: str, argv: Argv) -> Call:
    return Call(what=f"let OpenBSD judge the new {what}", argv=argv)
