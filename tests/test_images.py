"""Recipes, APT sources, and what of a tree goes into a drive."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription, Problem
from okubsd.host.packer import pack_tree
from okubsd.images import commands, tree
from okubsd.images.initrd import needed_modules
from okubsd.images.sources import of_release, parse_deb822, parse_list, render_list
from okubsd.model import Kind, Recipe

TERM = Recipe(name="term", kind=Kind.APP, base="base", packages=("xterm",), apps={"term": ("xterm", "it's")})


BROKEN = {
    "empty": ("", "empty"),
    "no base": ("apps: {a: [a]}\n", "says which base"),
    "no apps": ("from: base\n", "at least one app"),
    "app without words": ("from: base\napps: {a: []}\n", "at least one word"),
    "app a word": ("from: base\napps: {a: xterm}\n", "a command as a list of words"),
    "app name": ("from: base\napps: {'a;b': [x]}\n", "no name for an app"),
    "package option": ("from: base\npackages: [--purge]\napps: {a: [a]}\n", "a Debian package name"),
    "package case": ("from: base\npackages: [XTerm]\napps: {a: [a]}\n", "a Debian package name"),
    "files outside": ("from: base\nfiles: ../../etc\napps: {a: [a]}\n", "a directory beside the recipe"),
    "setuid relative": ("from: base\nsetuid: [bin/su]\napps: {a: [a]}\n", "an absolute path"),
    "mirror a file": ("from: base\nmirror: file:///etc\napps: {a: [a]}\n", "URL"),
    "suite odd": ("from: base\nsuite: 'a b'\napps: {a: [a]}\n", "a Debian release"),
    "kind": ("kind: disk\n", "boot or base or app"),
    "unknown": ("from: base\npackage: [x]\napps: {a: [a]}\n", "did you mean 'packages'?"),
    "newline in command": ('from: base\napps: {a: ["x\\ny"]}\n', "a word of a command"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_recipe_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(BadDescription) as caught:
        parse_recipe("x", Path("recipe.yaml"), text)
    assert any(said in line for line in caught.value.mistakes), caught.value.mistakes


DEB822 = """# comment
Types: deb deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://vendor.example/x
Suites: stable
Components: main

Types: deb
Enabled: no
URIs: http://off.example
Suites: bookworm
Components: main
"""


def test_the_hosts_own_sources_are_taken_and_vendors_are_not() -> None:
    found = of_release(parse_deb822(DEB822), "bookworm")
    assert [source.suite for source in found] == ["bookworm", "bookworm-updates"]
    assert "vendor" not in render_list(found) and "off.example" not in render_list(found)
    assert render_list(found).startswith("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http")


def test_one_line_sources_are_read() -> None:
    text = "deb [arch=amd64 signed-by=/k.gpg] http://d/debian bookworm main # x\n#deb http://no x main\ndeb-src http://d x main\n"
    found = list(parse_list(text))
    assert [(source.uri, source.signed_by, source.components) for source in found] == [
        ("http://d/debian", "/k.gpg", ("main",))
    ]


def test_an_inline_key_is_left_to_the_hosts_keyrings() -> None:
    text = DEB822.replace(
        "/usr/share/keyrings/debian-archive-keyring.gpg", "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n ."
    )
    assert "signed-by" not in render_list(of_release(parse_deb822(text), "bookworm"))


def test_bootstrapping_is_pinned(golden: object) -> None:
    argv = commands.bootstrap_argv(TERM, "bookworm", Path("/s"), Path("/b ase"), Path("/t"), root=False)
    golden("mmdebstrap.argv", "\n".join(argv) + "\n")  # type: ignore[operator]


def test_packing_dates_everything_alike() -> None:
    argv = commands.pack_argv(Path("/i"), Kind.APP, 1 << 30)
    assert argv[argv.index("-all-time") + 1] == argv[argv.index("-mkfs-time") + 1] == str(commands.EPOCH)


@pytest.mark.parametrize(
    "path",
    ["etc/machine-id", "var/log/dpkg.log", "var/cache/apt/x", "dev/null", "etc/ssh/ssh_host_rsa_key", "etc/shadow-"]
    + ["tmp/x", "var/lib/dpkg/status-old", "boot/vmlinuz", "usr/lib/python3/__pycache__/a.pyc", "etc/hostname"],
)
def test_what_is_of_one_machine_or_one_build_is_left_out(path: str) -> None:
    assert not tree.is_kept(path, Kind.BASE)


def test_an_app_does_not_hide_the_bases_packages() -> None:
    assert tree.is_kept("var/lib/dpkg/status", Kind.BASE) and not tree.is_kept("var/lib/dpkg/status", Kind.APP)
    assert tree.is_kept("var/cache/fontconfig/x.cache-8", Kind.APP) and tree.is_kept("usr/bin/xterm", Kind.APP)


def test_setuid_is_stripped_unless_the_recipe_says_so() -> None:
    assert tree.mode_in_drive("bin/su", 0o104755, ()) == 0o100755
    assert tree.mode_in_drive("bin/su", 0o104755, ("/bin/su",)) == 0o104755
    assert tree.mode_in_drive("var/mail", 0o042775, ()) == 0o042775


def node(mode: int = stat.S_IFREG | 0o644, content: str = "x") -> tree.Node:
    return tree.Node(mode, 0, 0, content)


def test_an_app_adds_only_what_differs_with_its_directories() -> None:
    base = {"usr": node(0o040755, ""), "usr/a": node()}
    app = {
        **base,
        "usr/b": node(),
        "usr/a": node(),
        "opt": node(0o040755, ""),
        "opt/d": node(0o040755, ""),
        "opt/d/c": node(),
    }
    assert tree.added_paths(app, base) == ["opt", "opt/d", "opt/d/c", "usr", "usr/b"]


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(paths, st.text(max_size=2)), st.dictionaries(paths, st.text(max_size=2)))
def test_what_is_added_is_never_in_the_base_alike(app: dict[str, str], base: dict[str, str]) -> None:
    tree_nodes = {path: node(content=text) for path, text in app.items()}
    base_nodes = {path: node(content=text) for path, text in base.items()}
    added = tree.added_paths(tree_nodes, base_nodes)
    assert added == sorted(added)
    assert {path for path in app if base.get(path) != app[path]} <= set(added)


def test_links_among_directories_are_followed_and_loops_refused() -> None:
    nodes = {"lib": node(stat.S_IFLNK | 0o777, "usr/lib"), "usr/lib/d": node(stat.S_IFLNK | 0o777, "../share/d")}
    assert tree.follow_links("lib/d/x", nodes) == "usr/share/d/x"
    with pytest.raises(Problem, match="loop"):
        tree.follow_links("a/x", {"a": node(stat.S_IFLNK | 0o777, "/a")})


def test_nobody_has_a_password() -> None:
    shadow = tree.lock_passwords("root:$y$secret:19000:0:99999:7:::\ndaemon:*:1:0:99999:7:::\n")
    assert "secret" not in shadow and shadow.count(":*:20000:") == 3
    assert tree.add_user(tree.add_user("root:x:0:0::/root:/bin/sh\n")).count("\nuser:") == 1


def test_an_app_script_keeps_its_words() -> None:
    assert tree.render_app(("xterm", "it's")) == "#!/bin/sh\nexec 'xterm' 'it'\\''s' \"$@\"\n"


def test_modules_come_in_order_and_missing_ones_are_told() -> None:
    files = ["k/virtio-rng.ko", "k/virtio_blk.ko.xz"]
    assert needed_modules(["virtio_blk", "ext4", "virtio-rng"], files, "kernel/fs/ext4/ext4.ko\n") == [
        ("virtio_blk", "k/virtio_blk.ko.xz"),
        ("virtio_rng", "k/virtio-rng.ko"),
    ]
    with pytest.raises(Problem, match="no module 'nosuch'"):
        needed_modules(["nosuch"], files, "")


def make_tar(path: Path, *, when: int, order: int) -> Path:
    files = {"./etc/passwd": b"root:x:0:0::/root:/bin/sh\n", "./etc/machine-id": b"abc", "./usr/bin/su": b"su"}
    with tarfile.open(path, "w") as archive:
        for name in ("./", "./etc", "./usr", "./usr/bin"):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, when
            archive.addfile(member)
        for name, data in sorted(files.items())[::order]:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o4755 if name.endswith("su") else 0o644, when
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("./usr/bin/su2")
        link.type, link.linkname, link.mtime = tarfile.LNKTYPE, "./usr/bin/su", when
        archive.addfile(link)
    return path


def test_a_drive_does_not_depend_on_when_or_in_which_order_it_was_made(tmp_path: Path) -> None:
    base = Recipe(name="base", kind=Kind.BASE)
    for name, when, order in (("a", 1, 1), ("b", 999999, -1)):
        pack_tree(make_tar(tmp_path / f"{name}.in", when=when, order=order), base, tmp_path, {}, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as drive:
        assert drive.getnames() == ["etc", "etc/passwd", "usr", "usr/bin", "usr/bin/su", "usr/bin/su2"]
        assert drive.getmember("usr/bin/su").mode == 0o755
        assert drive.getmember("usr/bin/su2").isreg()
