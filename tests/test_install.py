"""An app by one command: what is written, what is refused, and that what fails leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from okubsd.cli import install as installed
from okubsd.cli.main import call
from okubsd.errors import Misuse, Problem
from okubsd.host import installing, programs
from okubsd.host.session import Session


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(programs, "has_vmd", lambda: False)
    for name in ("OKUBSD_STATE", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(installed, "bring_up_to_date", lambda session, names: session.recipes[names[0]])
    return tmp_path


def files(home: Path) -> set[str]:
    """Return every file that there is, but locks."""
    found = (path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(home)) for path in found}


def test_an_app_of_the_sample_needs_no_file(home: Path) -> None:
    assert call(["-q", "install", "gimp"]) == 0
    assert files(home) == set()


def test_another_vm_of_an_app_is_as_large_as_the_first(home: Path) -> None:
    assert call(["-q", "install", "firefox", "--vm", "bank", "--network", "none"]) == 0
    vm = Session().vm("bank")
    assert (vm.image, vm.network.name, vm.memory, vm.cpus) == ("firefox", "none", 2 << 30, 2)
    # What the user had is there, comments and all.
    own = home / "XDG_CONFIG_HOME/okubsd/okubsd.yaml"
    assert own.read_text().startswith("# The sample description") and Session().vm("vault").color == "black"
    # Once more changes nothing; with another network it is another VM's name.
    assert call(["-q", "install", "firefox", "--vm", "bank"]) == 0
    assert call(["-q", "install", "firefox", "--vm", "bank", "--network", "nat"]) == 2


def test_any_package_becomes_an_app(home: Path) -> None:
    assert call(["-q", "install", "calc", "--package", "galculator", "--network", "none"]) == 0
    recipe = Session().recipes["calc"]
    assert recipe.packages == ("galculator",) and recipe.apps == {"calc": ("galculator",)}
    assert call(["-q", "uninstall", "-y", "calc"]) == 0
    assert files(home) == {"XDG_CONFIG_HOME/okubsd/okubsd.yaml"}
    assert "calc" not in Session().recipes and Session().description.find("calc") is None


@pytest.mark.parametrize(
    "words",
    [
        ["nosuch"],
        ["../x"],
        ["firefox", "--vm", "a b"],
        ["firefox", "--vm", "../../x"],
        ["firefox", "--vm", "bank", "--network", "nosuch"],
        ["x", "--package", "Bad Name"],
        ["x/y", "--package", "good"],
        ["x", "--package", "good", "--command", "a; rm -rf /"],
        ["x", "--command", "y"],
        ["firefox", "--package", "firefox-esr"],
        ["firefox", "--vm", "vault"],
        ["base"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_told_and_changes_nothing(
    words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["install", *words]) in (2, 3, 4)
    said = capsys.readouterr().err
    assert said.startswith("okubsd: ") and "Traceback" not in said
    assert files(home) == set()


def test_a_build_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise Problem("there is no package 'nosuch'")

    monkeypatch.setattr(installed, "bring_up_to_date", fails)
    assert call(["-q", "install", "x", "--package", "nosuch"]) == 1
    assert files(home) == {"XDG_CONFIG_HOME/okubsd/okubsd.yaml"}


def test_what_the_user_wrote_is_not_removed(home: Path) -> None:
    own = home / "XDG_CONFIG_HOME/okubsd/images/mine/recipe.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("from: base\npackages: [xterm]\napps:\n  mine: [xterm]\n")
    assert call(["-q", "install", "mine"]) == 0
    assert call(["-q", "uninstall", "-y", "mine"]) == 0
    assert own.is_file()
    with pytest.raises(Misuse, match="recipe 'mine' already"):
        installing.add_recipe(Session(), "mine", "xterm", "")


def test_recipes_are_found_by_any_word_of_them(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okubsd.host.installing.find_packages", lambda word: [])
    assert call(["search", "thunder"]) == 0
    assert "mail" in capsys.readouterr().out
    assert call(["search", "nosuch"]) == 0
    assert "okubsd install nosuch --package nosuch" in capsys.readouterr().err


def test_a_description_of_the_users_is_not_written_over(home: Path) -> None:
    own = home / "XDG_CONFIG_HOME/okubsd/okubsd.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("vms: {mine: {image: term}}  # precious\n")
    sample = Session().places.share / "etc/okubsd.yaml"
    assert call(["-q", "-f", str(sample), "install", "firefox", "--vm", "bank"]) == 2
    assert own.read_text() == "vms: {mine: {image: term}}  # precious\n"


def test_files_beside_a_recipe_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = home / "XDG_CONFIG_HOME/okubsd/images"
    (images / "calc/files/etc").mkdir(parents=True)
    (images / "calc/files/etc/x").write_text("precious")
    assert call(["-q", "install", "calc", "--package", "galculator"]) == 2
    assert (images / "calc/files/etc/x").read_text() == "precious"
    # One that was changed after the install is the user's.
    assert call(["-q", "install", "other", "--package", "galculator"]) == 0
    recipe = images / "other/recipe.yaml"
    recipe.write_text(recipe.read_text() + "files: files\n")
    (images / "other/files").mkdir()
    assert call(["-q", "uninstall", "-y", "other"]) == 0
    assert recipe.is_file()


def test_on_openbsd_root_makes_images(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "has_vmd", lambda: True)
    assert call(["-q", "install", "firefox", "--vm", "bank"]) != 0
    assert files(home) == set()
