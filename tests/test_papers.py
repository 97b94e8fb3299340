"""Manuals, linters and the examples in the papers are tests."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from okubsd.cli.main import okubsd
from okubsd.cli.table import ROWS
from okubsd.config.description import VM_FIELDS, parse_description
from okubsd.config.networks import NETWORK_FIELDS
from okubsd.config.recipe import _FIELDS, parse_recipe
from okubsd.errors import Misuse, Problem
from okubsd.host.places import find_places
from okubsd.host.reading import read_recipes
from okubsd.model import NetworkKind
from tests.conftest import CHECKOUT, run_tool

pytestmark = pytest.mark.spawns
MANUALS = sorted((CHECKOUT / "man").glob("*.[1-9]"))


def need(program: str) -> None:
    assert shutil.which(program), f"{program} is missing; 'make test' installs it"


@pytest.mark.parametrize("manual", MANUALS, ids=lambda path: path.name)
def test_manuals_have_no_warnings(manual: Path) -> None:
    need("mandoc")
    done = run_tool("mandoc", "-Tlint", "-Wwarning", str(manual))
    assert done.stdout == ""


def test_ruff_is_content() -> None:
    assert run_tool(sys.executable, "-m", "ruff", "check", "okubsd", "tests", "setup.py").stdout.startswith(
        "All checks"
    )
    done = run_tool(sys.executable, "-m", "ruff", "format", "--check", "okubsd", "tests", "setup.py")
    assert done.returncode == 0, done.stdout


def test_mypy_is_content() -> None:
    done = run_tool(sys.executable, "-m", "mypy", "--strict", "okubsd")
    assert done.returncode == 0, done.stdout


def test_codespell_is_content() -> None:
    papers = [path.name for path in CHECKOUT.glob("*.md")]
    done = run_tool(
        sys.executable, "-m", "codespell_lib", "-L", "chage,nd,requestor,te", "okubsd", "man", "images", "etc", *papers
    )
    assert done.stdout == ""


def test_shellcheck_is_content() -> None:
    need("shellcheck")
    scripts = [path for path in CHECKOUT.glob("images/**/*") if path.is_file() and path.read_bytes()[:2] == b"#!"]
    scripts += [CHECKOUT / "etc/need-packages", CHECKOUT / ".ci/run"]
    assert len(scripts) >= 6
    done = run_tool("shellcheck", "--shell=busybox", "--severity=warning", *map(str, scripts))
    if "Unknown shell" in done.stderr + done.stdout:
        done = run_tool("shellcheck", "--shell=dash", "--severity=warning", *map(str, scripts))
    assert done.stdout == ""


def test_the_manual_has_every_command() -> None:
    text = (CHECKOUT / "man/okubsd.1").read_text()
    for row in ROWS:
        assert re.search(rf"\.(It )?(Xo\n\.)?Cm {row.name}\b", text) or row.name == "ls", row.name


def test_the_manual_has_every_exit_code() -> None:
    text = (CHECKOUT / "man/okubsd.1").read_text().split("EXIT STATUS")[1]
    codes = {error.code for error in [Problem, *Problem.__subclasses__()]}
    assert all(f".It {code}\n" in text for code in {0, 130, *codes})
    assert Misuse.code == 2


def test_the_manual_has_every_key() -> None:
    description = (CHECKOUT / "man/okubsd.yaml.5").read_text()
    recipe = (CHECKOUT / "man/okubsd-image.5").read_text()
    keys = [*VM_FIELDS, *NETWORK_FIELDS]
    assert [key for key in keys if f".It Ic {key}\n" not in description] == []
    assert [key for key in _FIELDS if f".It Ic {key}\n" not in recipe] == []


def literals(manual: str) -> list[str]:
    text = (CHECKOUT / "man" / manual).read_text()
    return [part.split(".Ed")[0] for part in text.split(".Bd -literal -offset indent\n")[1:]]


def test_the_example_descriptions_are_taken() -> None:
    recipes = read_recipes(find_places())
    wishes = [parse_description(Path("x"), text, [], recipes) for text in literals("okubsd.yaml.5")]
    vms = {tuple(vm.name for vm in description.vms): description for description in wishes}
    bank = vms["bank", "browser"].vms[0]
    assert bank.disposable and bank.display == (1600, 900)
    assert {network.kind for description in wishes for network in description.networks} >= {
        NetworkKind.WIREGUARD,
        NetworkKind.GATEWAY,
    }
    assert any(rule.until for description in wishes for vm in description.vms for rule in vm.rules)


def test_the_readmes_descriptions_are_taken() -> None:
    recipes = read_recipes(find_places())
    texts = re.findall(r"```yaml\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert len(texts) >= 2
    for text in texts:
        assert parse_description(Path("x"), text, [], recipes).vms


def test_the_example_recipe_is_taken() -> None:
    assert parse_recipe("viewer", Path("x"), literals("okubsd-image.5")[0]).apps["feh"][0] == "feh"


def test_the_examples_of_the_commands_parse() -> None:
    text = (CHECKOUT / "man/okubsd.1").read_text().split(".Sh EXAMPLES")[1].split(".Sh")[0]
    lines = re.findall(r"\$ (okubsd .*)", text)
    assert len(lines) >= 5
    for line in lines:
        words = line.split(" <")[0].split()[1:]
        command = okubsd.get_command(None, words[0])  # type: ignore[arg-type]
        assert command is not None
        command.make_parser(command.make_context(words[0], list(words[1:]), resilient_parsing=True))


# What a reader elsewhere cannot know: a machine's own paths, numbers of tickets, notes to oneself.
FOREIGN = re.compile(
    r"(?<![\w.])/(?:work|Users)/|\b(?:[Ii]ssue|[Tt]icket|[Ss]ession) (?:no\.? ?)?#?[0-9]|\b(?:TODO|FIXME|XXX)\b"
)


def told() -> list[Path]:
    """Return everything of the project that people read: papers, manuals, sources, samples, tests."""
    found = [*CHECKOUT.glob("*.md"), *MANUALS]
    for top in ("okubsd", "images", "etc", "libexec", "rc.d", "tests"):
        found += [path for path in (CHECKOUT / top).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    # The corpus is what OpenBSD said.
    return [path for path in found if "corpus" not in path.parts and path != Path(__file__)]


def test_the_papers_speak_of_the_project_alone() -> None:
    files = told()
    assert len(files) > 300
    wrong = [
        f"{path.relative_to(CHECKOUT)}: {found[0]}"
        for path in files
        if (found := FOREIGN.search(path.read_text(errors="replace"))) is not None
    ]
    assert wrong == []


def test_every_make_that_the_papers_name_does_something() -> None:
    rules = re.findall(r"(?m)^([a-z-]+):.*\n\t", (CHECKOUT / "Makefile").read_text())
    text = "".join((CHECKOUT / paper).read_text() for paper in ("README.md", "CONTRIBUTING.md"))
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text))
    assert {"run", "test", "lint"} <= named <= set(rules), named - set(rules)
