"""Imports point down only, and one module spawns."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from okubsd.host import door

PACKAGE = Path(__file__).parent.parent / "okubsd"

# From the words up; a module may import from its own layer's package and from lower layers.
LAYERS = {
    "errors": 0,
    "model": 0,
    "needs": 0,
    "config": 1,
    "guest": 2,
    "images": 2,
    "qemu": 2,
    "display": 2,
    "network": 2,
    "netif": 2,
    "nft": 2,
    "pf": 2,
    "vmd": 2,
    "vpn": 2,
}
LAYERS |= {"plan": 3, "host": 4, "cli": 5, "__main__": 6, "__init__": 0}

# Translators know each other's types in two places only.
ALLOWED_SIDEWAYS = {("network", "guest"), ("images", "guest")}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_down_only() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = part(path)
        for name in imports(path):
            words = name.split(".")
            if words[0] != "okubsd" or len(words) < 2 or words[1] not in LAYERS or words[1] == here:
                continue
            sideways = LAYERS[words[1]] == LAYERS[here] and (here, words[1]) not in ALLOWED_SIDEWAYS
            if LAYERS[words[1]] > LAYERS[here] or (sideways and LAYERS[here] > 0):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_only_the_door_spawns() -> None:
    spawners = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called = f"{getattr(node.func.value, 'id', '')}.{node.func.attr}"
            if called in ("subprocess.Popen", "subprocess.run", "subprocess.call", "os.system", "os.fork", "os.execvp"):
                spawners.add(str(path.relative_to(PACKAGE)))
    # The keeper is a program of its own, beside QEMU, and imports nothing of ours.
    assert spawners == {"host/door.py", "host/keeper.py"}
    assert not [name for name in imports(PACKAGE / "host/keeper.py") if name.startswith("okubsd")]


@pytest.mark.parametrize(
    "call", [door.run, lambda argv: door.must(argv, "x"), lambda argv: door.spawn(argv, Path("/dev/null"))]
)
def test_there_is_no_way_into_a_guest_without_bounds(call: Callable[[tuple[str, ...]], object]) -> None:
    with pytest.raises(AssertionError, match="without bounds"):
        call(("nsenter", "--net", "--", "ssh", "-F", "x", "term", "true"))


def test_only_the_bounded_ways_take_a_call_into_a_guest() -> None:
    """Every function of the door that spawns either refuses ssh(1), or is one of the ways into a guest."""
    source = (PACKAGE / "host/door.py").read_text()
    bodies = {node.name: ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    spawning = {name for name, body in bodies.items() if "subprocess.Popen(" in body or "subprocess.call(" in body}
    refusing = {name for name in spawning if "_refuse_guest(" in bodies[name]}
    assert spawning - refusing == {"ask", "stream", "joined", "call_interactive", "spawn_measured"}
    measuring = [path.name for path in PACKAGE.rglob("*.py") if "spawn_measured" in path.read_text()]
    assert sorted(measuring) == ["bench.py", "door.py", "stock.py"]
    # A display is looked at by the watcher's child only.
    looking = [path.name for path in PACKAGE.rglob("*.py") if "from Xlib import" in path.read_text()]
    assert looking == ["window.py"]


def test_pure_layers_touch_nothing() -> None:
    effects = {"subprocess", "socket", "shutil", "tempfile", "time", "random", "secrets"}
    for path in PACKAGE.rglob("*.py"):
        if LAYERS[part(path)] < LAYERS["host"]:
            assert not imports(path) & effects, path


def test_no_shell_strings_and_no_unsafe_yaml() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "shell=" + "True" not in text, path
        assert "yaml." + "load(" not in text, path
        assert "StrictHostKeyChecking" not in text or text.count("StrictHostKeyChecking") == text.count(
            '"StrictHostKeyChecking": "yes"'
        ), path
