"""Measure the house: `make measure` prints what a change of structure is judged by.  Nothing here is asserted.

The figures: modules of ours that `start -n` imports and executes, product files that name each kind of network,
the longest function, the largest file, functions with more than six parameters, circles of imports, and sizes.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "okubsd"
_MOST_PARAMETERS = 6

# Run in a process of its own: which of our files are imported, and in which of them a function is called.  What runs
# while a module is imported (the tables at its top, the bodies of its classes) is no step of the way.
_TRACED = """
import sys
executed = set()
def look(frame, event, argument):
    name, above = frame.f_code.co_filename, frame
    if event == "call" and "/okubsd/" in name:
        while above is not None and above.f_code.co_name != "<module>":
            above = above.f_back
        if above is None or "/okubsd/" not in above.f_code.co_filename:
            executed.add(name.split("/okubsd/")[-1])
from okubsd.cli.main import call
sys.setprofile(look)
call(sys.argv[1:])
sys.setprofile(None)
import json
imported = [name for name in sys.modules if name.split(".")[0] == "okubsd"]
print(json.dumps({"imported": sorted(imported), "executed": sorted(executed)}), file=sys.stderr)
"""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE.parent), ast.parse(path.read_text())


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{path}:{node.name}", node


def lines_of(node: ast.FunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameters_of(node: ast.FunctionDef) -> int:
    given = node.args
    names = [found.arg for found in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def traced(*args: str) -> dict[str, list[str]]:
    """Return the modules that a call of okubsd imports, and the files in which it runs a function."""
    with tempfile.TemporaryDirectory(prefix="okm-") as home:
        env = {**os.environ, "HOME": home, "OKUBSD_STATE": f"{home}/state", "PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run(
            [sys.executable, "-c", _TRACED, *args], env=env, cwd=PACKAGE.parent, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    return dict(json.loads(done.stderr.strip().splitlines()[-1]))


def graph() -> dict[str, set[str]]:
    """Return which module imports which, at its top."""
    names = {str(path.with_suffix("")).replace("/", "."): tree for path, tree in trees()}
    found: dict[str, set[str]] = {}
    for name, tree in names.items():
        asked = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
        full = {node.module for node in asked} | {f"{node.module}.{a.name}" for node in asked for a in node.names}
        found[name] = {other for other in full if other in names and other != name}
    return found


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or not."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for other in arrows[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    below = {name: reached(name) for name in arrows}
    found = {frozenset({name, *(o for o in below[name] if name in below[o])}) for name in arrows if name in below[name]}
    return [set(circle) for circle in found]


def kinds() -> dict[str, list[str]]:
    """Return the product files that name each kind of network, by the member of the enumeration."""
    found: dict[str, list[str]] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "NetworkKind":
                found.setdefault(node.attr, []).append(str(path))
    return {kind: sorted(set(files)) for kind, files in found.items() if kind.isupper()}


def measure() -> dict[str, object]:
    every = list(functions())
    sizes = sorted((len((PACKAGE.parent / path).read_text().splitlines()), str(path)) for path, _ in trees())
    lengths = sorted((lines_of(node), name) for name, node in every)
    start = traced("-f", str(PACKAGE.parent / "etc/okubsd.yaml"), "start", "-n", "browser")
    return {
        "files": len(sizes),
        "lines": sum(size for size, _ in sizes),
        "largest files": [f"{size} {name}" for size, name in sizes[:-6:-1]],
        "files over 350 lines": len([size for size, _ in sizes if size > 350]),
        "functions": len(lengths),
        "median function": lengths[len(lengths) // 2][0],
        "longest functions": [f"{length} {name}" for length, name in lengths[:-6:-1]],
        "functions over six parameters": sorted(n for n, node in every if parameters_of(node) > _MOST_PARAMETERS),
        "circles": [sorted(circle) for circle in circles(graph())],
        "start -n imports": len(start["imported"]),
        "start -n executes": len(start["executed"]),
        "start -n executes in": start["executed"],
        "files that name a kind": {kind: len(files) for kind, files in sorted(kinds().items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    found = measure()
    if parser.parse_args().json:
        print(json.dumps(found, indent=2))
        return
    for what, value in found.items():
        print(f"{what}: {value}" if not isinstance(value, list) else f"{what}: {len(value)}")
        for line in value if isinstance(value, list) else ():
            print(f"    {line}")


if __name__ == "__main__":
    main()
