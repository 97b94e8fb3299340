"""Break a line of the product, and see whether the pure tests notice: once for each of some lines taken at random.

    python tests/mutate.py [--count 40] [--seed 1] [FOLDER ...]

Each change is made in a copy of the checkout: a comparison turned round, `and` for `or`, a number one larger, a
condition negated, plus for minus.  What survives is told with its line; some of it means the same as before.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = ("plan", "pf", "nft", "vmd", "guest")
_LEFT_OUT = (".git", ".venv", ".venv-oldest", ".hypothesis", "out", "build", "__pycache__")
_SECONDS = 300

_TURNED = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add,
}  # fmt: skip


class Mutant(NamedTuple):
    """A file, and the text that stands in place of one of its expressions."""

    path: Path
    line: int
    before: str
    after: str
    text: str


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        changed = _changed(node)
        before = ast.get_source_segment(source, node) if changed is not None else None
        if changed is None or before is None:
            continue
        assert isinstance(node, ast.expr)
        after = f"({ast.unparse(changed)})"
        lines = source.encode().splitlines(keepends=True)
        begin = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
        text = source.encode()[:begin] + after.encode() + source.encode()[begin + len(before.encode()) :]
        yield Mutant(path, node.lineno, " ".join(before.split()), after, text.decode())


def _changed(node: ast.AST) -> ast.expr | None:
    """Return another expression in place of ``node``, None where there is none."""
    made = copy.deepcopy(node)
    if isinstance(made, ast.Compare) and type(made.ops[0]) in _TURNED:
        made.ops[0] = _TURNED[type(made.ops[0])]()
    elif isinstance(made, ast.BoolOp | ast.BinOp) and type(made.op) in _TURNED:
        made.op = _TURNED[type(made.op)]()
    elif isinstance(made, ast.UnaryOp) and isinstance(made.op, ast.Not):
        return made.operand
    elif isinstance(made, ast.IfExp):
        made.test = ast.UnaryOp(ast.Not(), made.test)
    elif isinstance(made, ast.Constant) and type(made.value) is int:
        made.value += 1
    else:
        return None
    return made


def survives(mutant: Mutant, checkout: Path) -> bool:
    """Return whether the tests pass with a mutant in the copy ``checkout``."""
    target = checkout / mutant.path.relative_to(CHECKOUT)
    kept = target.read_text()
    target.write_text(mutant.text)
    argv = (
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "2",
        "-m",
        "not vm and not spawns",
        "-p",
        "no:cacheprovider",
    )
    env = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(argv, cwd=checkout, env=env, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    finally:
        target.write_text(kept)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    given = parser.parse_args()
    files = [path for name in given.folders for path in sorted((CHECKOUT / "okubsd" / name).rglob("*.py"))]
    every = [mutant for path in files for mutant in mutants(path)]
    chosen = random.Random(given.seed).sample(every, min(given.count, len(every)))
    killed = 0
    with tempfile.TemporaryDirectory(prefix="okubsd-mutate-") as name:
        checkout = Path(name) / "checkout"
        shutil.copytree(CHECKOUT, checkout, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
        for number, mutant in enumerate(chosen, 1):
            lived = survives(mutant, checkout)
            killed += not lived
            place = f"{mutant.path.relative_to(CHECKOUT)}:{mutant.line}"
            said = "SURVIVED" if lived else "killed"
            print(f"{number}/{len(chosen)} {said} {place}: {mutant.before} -> {mutant.after}", flush=True)
    print(f"{killed} of {len(chosen)} were noticed, of {len(every)} that there are")


if __name__ == "__main__":
    main()
