"""Packaging of okubsd: the package, and its data under share/ where hier(7) looks for them."""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "okubsd/__init__.py").read_text())

# man.conf(5) of OpenBSD looks below /usr/local/man, and not below share.
MAN = "man" if sys.platform.startswith("openbsd") else "share/man"


def manuals() -> list[tuple[str, list[str]]]:
    """Return the data_files rows of the manuals, a section each."""
    pages: dict[str, list[str]] = {}
    for path in sorted((HERE / "man").glob("*.[1-9]")):
        pages.setdefault(f"{MAN}/man{path.suffix[1:]}", []).append(f"man/{path.name}")
    return list(pages.items())


def tree(top: str, below: str) -> list[tuple[str, list[str]]]:
    """Return the data_files rows that install the directory ``top`` as ``below``."""
    rows: dict[str, list[str]] = {}
    for path in sorted((HERE / top).rglob("*")):
        # The port is made from a release; it is not part of one.
        if path.is_file() and "port" not in path.relative_to(HERE).parts:
            target = Path(below) / path.parent.relative_to(HERE / top)
            rows.setdefault(str(target), []).append(str(path.relative_to(HERE)))
    return list(rows.items())


setup(
    name="okubsd",
    version=VERSION[1] if VERSION else "0",
    description="Run every big, risky program in its own light Linux VM, as easily as typing its name",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="ISC",
    python_requires=">=3.11",
    packages=find_packages(include=["okubsd", "okubsd.*"]),
    package_data={"okubsd": ["py.typed", "host/stock-audit.json"]},
    data_files=[
        *tree("images", "share/okubsd/images"),
        *tree("etc", "share/okubsd/etc"),
        ("libexec", ["libexec/okubsd-helper", "libexec/okubsd-tun"]),
        ("share/okubsd/rc.d", ["rc.d/okubsd"]),
        *manuals(),
    ],
    entry_points={"console_scripts": ["okubsd = okubsd.__main__:main"]},
    install_requires=[
        "click>=8.1",
        "cryptography>=40",
        "msgspec>=0.18",
        "paramiko>=2.12",
        "python-xlib>=0.33",
        "pyyaml>=6.0",
        "rich>=13",
    ],
    extras_require={
        "test": [
            "codespell>=2.2",
            "hypothesis>=6.80",
            "mypy>=1.8",
            "pexpect>=4.8",
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "ruff>=0.4",
            "types-PyYAML",
        ]
    },
)
