"""The OpenBSD port says the same as setup.py: what is installed, what it needs, how it boots."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from okubsd import __version__
from okubsd.vmd.helper import HELPER, doas_line
from tests.conftest import CHECKOUT

PORT = CHECKOUT / "etc/port"
SITE = "lib/python${MODPY_VERSION}/site-packages"

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
    before, here = setuptools.setup, Path.cwd()
    setuptools.setup = lambda **options: asked.update(options)
    os.chdir(CHECKOUT)
    try:
        runpy.run_path(str(CHECKOUT / "setup.py"))
    finally:
        setuptools.setup = before
        os.chdir(here)
    return asked


def render_plist(options: dict[str, Any]) -> str:
    """Return the packing list of what ``options`` install, as pkg_create(1) wants it."""
    lines = {"@newgroup okubsd:900", "@rcscript ${RCDIR}/okubsd", "bin/okubsd", "@sample ${SYSCONFDIR}/okubsd/"}
    for target, files in options["data_files"]:
        for file in files:
            name = f"{target}/{Path(file).name}"
            lines.add(f"@man man/{name.removeprefix('share/man/')}" if name.startswith("share/man/") else name)
            parents = [str(parent) for parent in Path(name).parents if str(parent).startswith("share/okubsd")]
            lines.update(f"{parent}/" for parent in parents)
    for package in options["packages"]:
        directory = f"{SITE}/{package.replace('.', '/')}"
        lines |= {f"{directory}/", f"${{MODPY_COMMENT}}{directory}/${{MODPY_PYCACHE}}/"}
        for module in sorted((CHECKOUT / package.replace(".", "/")).glob("*.py")):
            cached = f"${{MODPY_PYCACHE}}{module.stem}.${{MODPY_PYC_MAGIC_TAG}}${{MODPY_PYOEXTENSION}}"
            lines |= {f"{directory}/{module.name}", f"{directory}/{cached}"}
    lines.add(f"{SITE}/okubsd/py.typed")
    lines.add("share/doc/pkg-readmes/${PKGSTEM}")
    first = sorted(line for line in lines if line.startswith(("@newgroup", "@rcscript")))
    return "".join(f"{line}\n" for line in [*first, *sorted(lines - set(first))])


def test_the_packing_list_is_what_setup_installs(installed: dict[str, Any]) -> None:
    path = PORT / "pkg/PLIST"
    text = render_plist(installed)
    if os.environ.get("OKUBSD_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs; OKUBSD_GOLDEN=write writes it anew"


def test_the_port_needs_what_setup_needs(installed: dict[str, Any]) -> None:
    makefile = (PORT / "Makefile").read_text()
    wanted = {PORTS[re.split(r"[><=]", name)[0]] for name in installed["install_requires"]}
    named = set(re.findall(r"([a-z0-9]+/py-[a-z]+)\$\{MODPY_FLAVOR\}", makefile))
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
