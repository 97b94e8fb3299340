"""Imports point down only, and one module spawns."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from okubsd.host import door
from okubsd.host.door.spawning import refuse_guest

PACKAGE = Path(__file__).parent.parent / "okubsd"

# From the words up; a module may import from its own layer's package and from lower layers.
LAYERS = {
    "errors": 0,
    "layout": 0,
    "rules": 0,
    "model": 0,
    "hostfile": 0,
    "recipe": 0,
    "sound": 0,
    "needs": 0,
    "decode": 0,
    "config": 1,
    "guest": 2,
    "images": 2,
    "qemu": 2,
    "display": 2,
    "menu": 2,
    "network": 2,
    "netif": 2,
    "nft": 2,
    "pf": 2,
    "vmd": 2,
    "vpn": 2,
}
LAYERS |= {"plan": 3, "host": 4, "bench": 5, "cli": 6, "__main__": 7, "__init__": 0}

# The floors of plan/, host/ and cli/: a module imports from lower floors, and beside it from what is named here only.
FLOORS = {
    "plan": [
        {"gateway", "images", "report", "graph", "exits"},
        {"steps"},
        {"limits"},
        {"seats.base"},
        {"facts", "saved"},
        {"seats"},
        {"compile", "start", "stop"},
        {"changes", "sysctls", "interfaces"},
        {"judge", "why", "doctor"},
        {"apply"},
    ],
    "host": [
        # The ground: what touches the system at all.
        {"programs", "trust", "waiting", "locks", "door", "sockets", "keeper", "xkb", "places", "system", "console"},
        # What lies on the disk, what runs, and how it is spoken to.
        {"reading", "running", "monitor", "records", "session", "keys", "homes", "store", "walls", "window", "tunnels",
         "selection", "crossings", "policy", "performance", "windows", "hands", "painting", "gateway_files", "signing", "workshop", "bootdrive", "zone"},
        {"packer", "container", "container_source", "fetching", "release", "staging", "builder", "versions"},
        {"engine"},
        {"saved"},
        {"facts"},
        {"guest"},
        # What a guest that runs is given, and how it is heard.
        {"shares", "sharing", "speaking", "microphone", "attending"},
        {"perform", "gateway", "publish", "copying", "judging", "auditing", "waking"},
        # Whole actions.
        {"glass"},
        {"clip", "lifecycle", "apply", "editing", "exchange", "report", "vpn"},
        {"rules", "doctor", "selftest", "copies", "menus", "installing", "updating", "mirror", "disk", "pool", "ready", "opening",
         "trying", "guest_workshop"},
    ],
    "cli": (
        {"session", "table"},
        {"building"},
        {"rows", "enter", "compile", "vpn", "policy", "menu", "builder", "versions", "exchange", "doctor", "names", "desktop"},
        {"details", "image", "check", "why", "copy", "share", "key"},
        {"look", "report", "install", "update"},
        {"audit", "bench", "clip", "lifecycle", "net", "opening", "pool", "selftest", "sound"},
        {"main"},
        {"completion"},
    ),
}  # fmt: skip

# What a function loads from a higher floor when it is called, and why.
UPWARD = {
    ("host", "session", "gateway"),  # a VM that is looked for by its name may be a gateway that okubsd makes
    ("host", "perform.apply", "apply"),  # a start whose rules changed applies these in the middle of its own steps
}

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


def floor_of(package: str, name: str) -> int | None:
    """Return the floor of the module ``name`` below ``package``, the lowest being 0."""
    floors = FLOORS[package]
    for words in range(len(name.split(".")), 0, -1):
        short = ".".join(name.split(".")[:words])
        for number, names in enumerate(floors):
            if short in names:
                return number
    return None


@pytest.mark.parametrize("package", FLOORS)
def test_floors_are_climbed_down_only(package: str) -> None:
    wrong = []
    for path in (PACKAGE / package).rglob("*.py"):
        here = ".".join(path.relative_to(PACKAGE / package).with_suffix("").parts).removesuffix(".__init__")
        if here == "__init__":
            continue
        floor = floor_of(package, here)
        assert floor is not None, f"{package}/{here} is on no floor"
        for name in imported(path):
            if name.startswith(f"okubsd.{package}."):
                other = name.removeprefix(f"okubsd.{package}.")
                below = floor_of(package, other)
                allowed = any((package, here, other.split(".")[0]) == row for row in UPWARD)
                if below is not None and below > floor and not allowed:
                    wrong.append(f"{package}/{here} (floor {floor}) imports {other} (floor {below})")
    assert wrong == []


def imported(path: Path) -> set[str]:
    """Return what ``path`` imports, at its top or in a function, but not what only its types name."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node))]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_module_imports_itself_by_a_detour() -> None:
    from tests.measure import circles, graph

    assert circles(graph()) == []


def test_only_the_door_spawns() -> None:
    spawners = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called = f"{getattr(node.func.value, 'id', '')}.{node.func.attr}"
            if called in (
                "subprocess.Popen",
                "subprocess.run",
                "subprocess.call",
                "os.system",
                "os.fork",
                "os.execvp",
                "os.execv",
            ):
                spawners.add(str(path.relative_to(PACKAGE)))
    # The keeper and the minder are programs of their own, and import nothing of ours; the glass becomes the latter.
    alone = {"host/keeper.py", "host/glass/minder.py"}
    doors = {f"host/door/{name}.py" for name in ("child", "guests", "spawning")}
    assert spawners == {*doors, *alone, "host/glass/__main__.py"}
    assert not [name for path in alone for name in imports(PACKAGE / path) if name.startswith("okubsd")]


@pytest.mark.parametrize(
    "call", [door.run, lambda argv: door.must(argv, "x"), lambda argv: door.spawn(argv, Path("/dev/null"))]
)
def test_there_is_no_way_into_a_guest_without_bounds(call: Callable[[tuple[str, ...]], object]) -> None:
    with pytest.raises(AssertionError, match="without bounds"):
        call(("nsenter", "--net", "--", "ssh", "-F", "x", "term", "true"))
    # A VM may have that name.
    refuse_guest(("true", "ssh"))


def test_only_the_bounded_ways_take_a_call_into_a_guest() -> None:
    """Every function of the door that spawns either refuses ssh(1), or is one of the ways into a guest."""
    source = "".join((PACKAGE / f"host/door/{name}.py").read_text() for name in ("spawning", "guests"))
    nodes = ast.parse(source.replace("from __future__", "from typing")).body
    bodies = {node.name: ast.unparse(node) for node in nodes if isinstance(node, ast.FunctionDef)}
    spawning = {name for name, body in bodies.items() if "subprocess.Popen(" in body or "subprocess.call(" in body}
    refusing = {name for name in spawning if "refuse_guest(" in bodies[name]}
    assert spawning - refusing == {"ask", "stream", "joined", "call_interactive", "spawn_measured", "listen"}
    measuring = [path.name for path in PACKAGE.rglob("*.py") if "spawn_measured" in path.read_text()]
    assert sorted(measuring) == ["__init__.py", "contestants.py", "guests.py", "starts.py", "stock.py"]
    # A display of a guest's is looked at by children only, and by the glass; measuring looks at a desktop of its own.
    looking = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "from Xlib import" in path.read_text()
    }
    assert {path for path in looking if not path.startswith(("host/glass/", "bench/"))} == {
        "host/selection.py",
        "host/painting.py",
        "host/window.py",
        "host/hands.py",
        "host/selftest/actor.py",
        "host/selftest/player.py",
    }


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


# What a verb loads on a host without vmd: at most so many modules of ours, and nothing of what it has no use for.
LOADED = {
    ("--help",): (14, ("yaml", "cryptography", "okubsd.plan", "okubsd.host.lifecycle")),
    ("list",): (76, ("okubsd.pf", "okubsd.netif", "okubsd.nft", "okubsd.images.sources", "paramiko", "Xlib")),
    ("start", "-n", "browser"): (99, ("okubsd.pf", "okubsd.vmd", "okubsd.netif", "cryptography", "paramiko", "Xlib")),
}


@pytest.mark.spawns
@pytest.mark.parametrize("argv", LOADED, ids=" ".join)
def test_a_verb_loads_what_it_needs(argv: tuple[str, ...], tmp_path: Path) -> None:
    most, unwanted = LOADED[argv]
    code = "import atexit, sys; from okubsd.cli.main import call\natexit.register(lambda: print(*sys.modules, sep='\\n'))\n"
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "DISPLAY": ":0"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}call(sys.argv[1:])", *argv],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        env=env,
        check=True,
    )
    loaded = set(done.stdout.splitlines())
    assert "okubsd.cli.main" in loaded and not loaded & set(unwanted)
    ours = [name for name in loaded if name.split(".")[0] == "okubsd"]
    assert len(ours) <= most, sorted(ours)
