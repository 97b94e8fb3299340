"""pfctl(8): loads rules by our grammar, and knows where anchors, tables and queues are."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from .host import USER, fail, place, undocumented
from .state import State, running, state

if TYPE_CHECKING:
    from okubsd.pf.rule_ends import PfHost


def pfctl(args: list[str]) -> None:
    if USER != "root":
        fail("pfctl: /dev/pf: Permission denied")
    rest: list[str] = []
    if "-T" in args:
        rest = args[args.index("-T") + 2 :]
        args = args[: args.index("-T") + 2]
    if any(part.startswith("_") for word in args if word.startswith("okubsd/") for part in word.split("/")):
        fail("pfctl: anchor names beginning with '_' cannot be modified from the command line")
    options = parse_options(args, "aDfFkstTV", "nqve")
    with state() as s:
        if "T" in options:
            change_table(s, options, rest)
        if "f" in options:
            load_rules(s, options)
        if "k" in options:
            s.calls.append(" ".join(["kill", *options.get("V", []), *options["k"]]))
        if "k" in options and "q" not in options:
            print("killed 0 states from 1 sources and 0 destinations", file=sys.stderr)
        if "F" in options:
            flush(s, options)
        if "s" in options:
            show(s, options)


def change_table(s: State, options: dict[str, list[str]], rest: list[str]) -> None:
    anchor, table = options["a"][0], options["t"][0]
    # A rule finds it in its own anchor or at the root, and nowhere else; replacing makes one that is not there.
    if not any(f"<{table}>" in rule for rule in s.anchors.get(anchor, {}).get("rules", ())):
        undocumented(f"a table that no rule of {anchor} names: {table}")
    if options["T"] == ["show"]:
        print("".join(f"   {address}\n" for address in s.tables.get(f"{anchor}:{table}", [])), end="")
    elif options["T"] == ["replace"]:
        s.tables[f"{anchor}:{table}"] = rest
    else:
        undocumented(f"pfctl -T {options['T']}")


def parse_options(args: list[str], valued: str, plain: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    words = iter(args)
    for word in words:
        if not word.startswith("-"):
            undocumented(f"pfctl {args}")
        for at, letter in enumerate(word[1:], 1):
            if letter in plain:
                found.setdefault(letter, [])
            elif letter in valued:
                found.setdefault(letter, []).append(word[at + 1 :] or next(words))
                break
            else:
                undocumented(f"pfctl -{letter}")
    return found


def load_rules(s: State, options: dict[str, list[str]]) -> None:
    from okubsd.config.parse_y import ConfError
    from okubsd.pf.grammar import parse_pf

    file, anchor = options["f"][0], options.get("a", [""])[0]
    if file == "-":
        text = sys.stdin.read()
    elif not place(file).is_file():
        fail(f"pfctl: pushfile: {file}: No such file or directory\n"
             "pfctl: cannot open the main config file!: No such file or directory")  # fmt: skip
    else:
        text = place(file).read_text()
    macros = dict(word.split("=", 1) for word in options.get("D", []))
    try:
        ruleset = parse_pf(text, file, pf_host(s), macros)
        if anchor and ruleset.queues:
            raise ConfError(1, "cannot add queue")
    except ConfError as error:
        more = "" if "n" in options else "\npfctl: Syntax error in config file: pf rules not loaded"
        fail(f"{file}:{error}{more}")
    if "n" in options:
        return
    once = place("/sim/queue-fails-once")
    if ruleset.queues and once.exists():
        # An interface went just now (observed).
        once.unlink()
        fail("stdin:2: not an interface\npfctl: Syntax error in config file: pf rules not loaded")
    if s.faults.get("pf") == (anchor or "main"):
        fail("pfctl: DIOCADDRULE: Device busy")
    for name in [name for name in s.anchors if anchor and name.startswith(f"{anchor}/")]:
        del s.anchors[name]
    s.anchors[anchor] = {"text": text, "macros": macros, "tables": list(ruleset.tables)}
    if anchor:
        register(s, anchor, ruleset.rules, 0)
    else:
        s.queues = list(ruleset.queues)
        s.queue_lines = re.findall(r"(?m)^queue .*", text)


def register(s: State, path: str, rules: Any, count: int) -> None:
    """Give every inline anchor its path: one without a name is called _1, _2 and so on."""
    s.anchors[path]["rules"] = [rule.text for rule in rules if rule.action != "anchor"]
    for rule in rules:
        if rule.action != "anchor" or rule.anchor is not None:
            continue
        count += not rule.named
        below = f"{path}/{rule.named or f'_{count}'}"
        s.anchors[below] = {"text": "", "macros": {}, "tables": list(rule.tables)}
        register(s, below, rule.children, 0)


def pf_host(s: State) -> PfHost:
    from okubsd.pf.rule_ends import PfHost

    tables = {0, *(int(name[2:]) for name in s.interfaces if name.startswith("lo"))}
    return PfHost(
        interfaces={"lo0": ("127.0.0.1/8",), "em0": ("192.0.2.10/24",), "egress": ("192.0.2.10/24",)},
        present=frozenset({"lo0", "em0", *s.interfaces, *(vm["vm"]["tap"] for vm in running(s).values())}),
        rtables=frozenset(tables | {vm["rdomain"] for vm in running(s).values()}),
        read=lambda path: place(path).read_text() if place(path).is_file() else None,
    )


def flush(s: State, options: dict[str, list[str]]) -> None:
    anchor = options.get("a", [""])[0]
    if options["F"] != ["rules"] or anchor in ("", "*"):
        undocumented(f"pfctl {options}")
    top = anchor.removesuffix("/*")
    if anchor.endswith("/*") and top not in s.anchors:
        fail("pfctl: Anchor does not exist.")
    if not anchor.endswith("/*"):
        # The rules go, the anchor and what is in it stay.
        if top in s.anchors:
            s.anchors[top]["rules"] = []
        return
    for name in [name for name in s.anchors if name == top or name.startswith(f"{top}/")]:
        del s.anchors[name]
    if "q" not in options:
        print("rules cleared", file=sys.stderr)


def show(s: State, options: dict[str, list[str]]) -> None:
    if options["s"][0] == "info":
        enabled = "Disabled" if s.faults.get("pf") == "off" else "Enabled"
        print(f"Status: {enabled} for 0 days 00:00:39              Debug: err")
        return
    anchor = options.get("a", [""])[0]
    if options["s"][0] == "Anchors":
        below = [name for name in s.anchors if name.startswith(f"{anchor}/") and "/" not in name[len(anchor) + 1 :]]
        print("".join(f"  {name}\n" for name in sorted(below)), end="")
        return
    if options["s"][0] == "queue":
        # A queue dies with the interface that it is on.
        there = pf_host(s).present or frozenset()
        for line in s.queue_lines:
            on = re.search(r" on (\S+)", line)
            if on is None or on[1] in there:
                print(line)
        return
    if options["s"][0] != "rules":
        undocumented(f"pfctl -s {options['s']}")
    if anchor == "*":
        # The rules of all anchors, each below its name.
        for name, found in sorted(s.anchors.items()):
            print(f'anchor "{name}" all {{' if name else "", *found.get("rules", []), "}" if name else "", sep="\n")
        return
    if anchor not in s.anchors:
        fail("pfctl: Anchor does not exist", 0)
    print("".join(f"{rule}\n" for rule in s.anchors[anchor].get("rules", [])), end="")
