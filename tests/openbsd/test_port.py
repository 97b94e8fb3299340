"""The OpenBSD port says the same as setup.py: what is installed, what it needs, how it boots."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from okubsd import __version__
from okubsd.layout import HELPER
from okubsd.vmd.helper import doas_line
from tests.conftest import CHECKOUT, same_as_file

PORT = CHECKOUT / "etc/port"
SITE = "lib/python${MODPY_VERSION}/site-packages"
DIST_INFO = f"{SITE}/okubsd-${{MODPY_DISTV}}.dist-info"

# What the wheel tells of itself.
_METADATA = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/", "licenses/LICENSE", "top_level.txt")

# Where OpenBSD's packages of our requirements lie in its ports tree.
PORTS = {
    "click": "devel/py-click", "cryptography": "security/py-cryptography", "msgspec": "devel/py-msgspec",
    "paramiko": "security/py-paramiko", "python-xlib": "x11/py-xlib", "pyyaml": "textproc/py-yaml", "rich": "devel/py-rich",
}  # fmt: skip


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    """What setup.py asks setuptools to install."""
    import setuptools

    asked: dict[str, Any] = {}
    before, here, platform = setuptools.setup, Path.cwd(), sys.platform
    setuptools.setup = lambda **options: asked.update(options)
    sys.platform = "openbsd7"
    os.chdir(CHECKOUT)
    try:
        runpy.run_path(str(CHECKOUT / "setup.py"))
    finally:
        setuptools.setup, sys.platform = before, platform
        os.chdir(here)
    return asked


def render_plist(options: dict[str, Any]) -> str:
    """Return the packing list of what ``options`` install, as pkg_create(1) wants it."""
    lines = {"@newgroup okubsd:990", "@rcscript ${RCDIR}/okubsd", "bin/okubsd", "@sample ${SYSCONFDIR}/okubsd/"}
    for target, files in options["data_files"]:
        for file in files:
            name = f"{target}/{Path(file).name}"
            lines.add(f"@man {name}" if name.startswith("man/") else name)
            parents = [str(parent) for parent in Path(name).parents if str(parent).startswith("share/okubsd")]
            lines.update(f"{parent}/" for parent in parents)
    for package in options["packages"]:
        directory = f"{SITE}/{package.replace('.', '/')}"
        lines |= {f"{directory}/", f"{directory}/${{MODPY_PYCACHE}}/"}
        for module in sorted((CHECKOUT / package.replace(".", "/")).glob("*.py")):
            # devel/py-installer compiles each module twice: as it is, and without assertions.
            cached = f"{directory}/${{MODPY_PYCACHE}}{module.stem}.${{MODPY_PYC_MAGIC_TAG}}"
            lines |= {f"{directory}/{module.name}", f"{cached}pyc", f"{cached}${{MODPY_PYOEXTENSION}}"}
    for package, files in options["package_data"].items():
        lines |= {f"{SITE}/{package.replace('.', '/')}/{file}" for file in files}
    lines |= {f"{DIST_INFO}/{name}" for name in ("", *_METADATA)}
    lines.add("share/doc/pkg-readmes/${PKGSTEM}")
    first = sorted(line for line in lines if line.startswith(("@newgroup", "@rcscript")))
    return "".join(f"{line}\n" for line in [*first, *sorted(lines - set(first))])


def test_the_packing_list_is_what_setup_installs(installed: dict[str, Any]) -> None:
    same_as_file(PORT / "pkg/PLIST", render_plist(installed))


def test_the_port_needs_what_setup_needs(installed: dict[str, Any]) -> None:
    makefile = (PORT / "Makefile").read_text()
    wanted = {PORTS[re.split(r"[><=]", name)[0]] for name in installed["install_requires"]}
    named = set(re.findall(r"([a-z0-9]+/py-[a-z]+)", makefile))
    assert named == wanted
    assert f"MODPY_DISTV =\t{__version__}\n" in makefile


def test_the_rc_script_is_the_one_that_is_tested() -> None:
    script = (CHECKOUT / "rc.d/okubsd").read_text()
    assert (PORT / "pkg/okubsd.rc").read_text().replace("${TRUEPREFIX}", "/usr/local") == script


def test_the_helper_is_installed_where_it_is_called(installed: dict[str, Any]) -> None:
    assert ("libexec", ["libexec/okubsd-helper", "libexec/okubsd-tun"]) in installed["data_files"]
    assert HELPER == "/usr/local/libexec/okubsd-helper"
    assert os.access(CHECKOUT / "libexec/okubsd-helper", os.X_OK)


def test_the_samples_say_what_apply_does() -> None:
    assert doas_line("okubsd") in (CHECKOUT / "etc/openbsd/doas.conf").read_text()
    assert "clock --all" in (CHECKOUT / "etc/openbsd/apm/resume").read_text()


@pytest.mark.spawns
@pytest.mark.parametrize("shell", ["mksh", "ksh93"])
def test_scripts_are_clean(shell: str) -> None:
    import subprocess

    scripts = [
        CHECKOUT / name
        for name in ("rc.d/okubsd", "libexec/okubsd-helper", "libexec/okubsd-tun", "etc/openbsd/apm/resume")
    ]
    for script in scripts:
        assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0
    done = subprocess.run(
        ["shellcheck", "--shell=ksh", "--severity=warning", *map(str, scripts)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


# What portcheck(1) of the ports tree, and bsd.port.mk(5), ask of a port's files.


def test_the_files_of_the_port_are_as_portcheck_wants_them() -> None:
    files = sorted(path for path in PORT.rglob("*") if path.is_file())
    assert {str(path.relative_to(PORT)) for path in files} == {
        "Makefile", "pkg/DESCR", "pkg/PLIST", "pkg/README", "pkg/okubsd.rc",
    }  # fmt: skip
    for path in files:
        text = path.read_text()
        assert text.endswith("\n") and not text.endswith("\n\n"), path
        assert not re.search(r"[ \t]+$|\r", text, re.MULTILINE), path
    for name in ("DESCR", "README"):
        assert max(map(len, (PORT / "pkg" / name).read_text().splitlines())) <= 80, name


def test_the_makefile_of_the_port_says_what_bsd_port_mk_asks_for() -> None:
    makefile = (PORT / "Makefile").read_text()
    said = dict(re.findall(r"(?m)^([A-Z_]+) =[ \t]+(.*)$", makefile))
    assert len(said["COMMENT"]) <= 60 and not said["COMMENT"].endswith(".")
    assert not re.match(r"(?:a|an|the) ", said["COMMENT"]) and said["COMMENT"][0].islower()
    assert set(said["CATEGORIES"].split()) <= {"sysutils", "emulators", "net", "security", "x11"}
    assert said["PERMIT_PACKAGE"] == "Yes"
    assert "FLAVOR" not in makefile
    depends = makefile.split("RUN_DEPENDS =")[1].split("\n\n")[0].replace("\\", "").split()
    assert depends == sorted(depends)
    assert makefile.rstrip().endswith(".include <bsd.port.mk>")


def test_the_packing_list_is_as_portcheck_wants_it() -> None:
    lines = (PORT / "pkg/PLIST").read_text().splitlines()
    assert len(lines) == len(set(lines))
    assert not [line for line in lines if line.startswith("share/man") or line.endswith(".gz")]
    modules = {line for line in lines if line.endswith(".py")}
    for module in modules:
        directory, _, name = module.rpartition("/")
        assert f"{directory}/${{MODPY_PYCACHE}}{name[:-3]}.${{MODPY_PYC_MAGIC_TAG}}pyc" in lines, module
    number = re.findall(r"(?m)^@newgroup okubsd:([0-9]+)$", "\n".join(lines))
    # Ports number their groups from 500 on; those up to 900 are given.
    assert len(number) == 1 and 900 < int(number[0]) < 1000
