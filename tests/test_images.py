"""Recipes, APT sources, and what of a tree goes into a drive."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription, Problem
from okubsd.host import staging
from okubsd.host.builder import first_reason
from okubsd.host.packer import pack_tree
from okubsd.host.reading import digest_of
from okubsd.images import commands, tree
from okubsd.images.initrd import needed_modules
from okubsd.images.sources import of_release, parse_deb822, parse_list, parse_proxies, render_apt_conf, render_sources
from okubsd.images.tree import link_target
from okubsd.model import Kind
from okubsd.recipe import Recipe

TERM = Recipe(name="term", kind=Kind.APP, base="base", packages=("xterm",), apps={"term": ("xterm", "it's")})


BROKEN = {
    "empty": ("", "empty"),
    "no base": ("apps: {a: [a]}\n", "says which base"),
    "no apps": ("from: base\n", "at least one app or service"),
    "sound of a base": ("kind: base\nsound: yes\n", "only an app image has sound"),
    "notifications of a container": (
        "from: base\ncontainer: a.tar\nnotifications: yes\n",
        "made of a container has no packages",
    ),
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
URIs: http://mirror.example.org/debian
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
    text = render_sources(found)
    assert "vendor" not in text and "off.example" not in text
    assert text.startswith("Types: deb\nURIs: http")
    assert "\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n" in text


def test_one_line_sources_are_read() -> None:
    text = "deb [arch=amd64 signed-by=/k.gpg] http://d/debian bookworm main # x\n#deb http://no x main\ndeb-src http://d x main\n"
    found = list(parse_list(text))
    assert [(source.uri, source.keyrings, source.components) for source in found] == [
        ("http://d/debian", ("/k.gpg",), ("main",))
    ]


FIELDS = "Types: deb\nURIs: http://d.example/debian\nSuites: bookworm\nComponents: main\n"
KEY_BLOCK = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEZ/+=\n -----END PGP PUBLIC KEY BLOCK-----\n"


@pytest.mark.parametrize("word", ["no", "false", "Without", "OFF", "disable", "0"])
def test_what_apt_does_not_use_is_not_used(word: str) -> None:
    assert not list(parse_deb822(f"Enabled: {word}\n{FIELDS}"))
    assert len(list(parse_deb822(f"Enabled: yes\n{FIELDS}"))) == 1


def test_a_source_of_another_architecture_is_not_used() -> None:
    assert not list(parse_deb822(f"{FIELDS}Architectures: arm64\n"))
    assert len(list(parse_deb822(f"{FIELDS}Architectures: arm64 amd64\n"))) == 1
    assert not list(parse_list("deb [arch=arm64] http://d.example/debian bookworm main\n"))
    assert len(list(parse_list("deb [arch=arm64,amd64] http://d.example/debian bookworm main\n"))) == 1


def test_a_release_may_be_called_by_its_alias_and_a_vendors_is_none() -> None:
    vendor = "deb http://vendor.example/apt stable main\n"
    own = "deb http://apt.example.org/debian stable main\ndeb http://apt.example.org/debian-security stable-security main\n"
    assert [source.uri for source in of_release(parse_list(vendor + own), "bookworm")] == [
        "http://apt.example.org/debian", "http://apt.example.org/debian-security"
    ]  # fmt: skip
    assert of_release(parse_list(vendor), "bookworm") == ()


def test_how_a_source_is_trusted_is_passed_on() -> None:
    (source,) = parse_deb822(f"{FIELDS}Trusted: yes\n")
    assert "\nTrusted: yes\n" in render_sources([source])
    (source,) = parse_deb822(FIELDS + KEY_BLOCK)
    assert render_sources([source]).endswith(KEY_BLOCK)
    (source,) = parse_list("deb [signed-by=/a.gpg,/b.asc trusted=yes] http://d.example/debian bookworm main\n")
    assert "\nSigned-By: /a.gpg,/b.asc\nTrusted: yes\n" in render_sources([source])
    (source,) = parse_deb822(FIELDS + KEY_BLOCK.replace("mDMEZ/+=", "$(id)"))
    assert "Signed-By" not in render_sources([source])


@pytest.mark.spawns
@pytest.mark.parametrize("text", [FIELDS, FIELDS + "Trusted: yes\n", FIELDS + KEY_BLOCK])
def test_apt_itself_reads_what_is_rendered(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.sources").write_text(render_sources(parse_deb822(text)))
    options = ["-o", f"Dir::Etc::sourceparts={tmp_path}", "-o", "Dir::Etc::sourcelist=/dev/null"]
    done = subprocess.run(["apt-get", *options, "--print-uris", "update"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "d.example/debian" in done.stdout, done.stderr


PROXIES = (
    'Acquire::http::Proxy "http://user:secret@proxy.example.lan:3128";\nAcquire::http::Proxy::local.example "DIRECT";\n'
)


def test_the_hosts_proxies_are_passed_on_and_nothing_else() -> None:
    other = 'APT::Update::Post-Invoke "touch /x";\nAcquire::http::Proxy "a\\"; APT::x "b";\nDir::Etc "/tmp";\n'
    assert render_apt_conf(parse_proxies(PROXIES + other)) == PROXIES


@pytest.mark.spawns
def test_apt_itself_reads_the_proxies_that_are_rendered(tmp_path: Path) -> None:
    (tmp_path / "apt.conf").write_text(render_apt_conf(parse_proxies(PROXIES)))
    argv = ["apt-config", "-c", str(tmp_path / "apt.conf"), "dump", "Acquire::http::Proxy"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == PROXIES


@given(st.text(max_size=300))
def test_any_text_is_read_as_sources_and_proxies(text: str) -> None:
    for found in (parse_list(text), parse_list(f"deb [{text}] {text} {text} {text}"), parse_deb822(FIELDS + text)):
        for line in render_sources(found).splitlines():
            assert re.match(r"(Types: deb|URIs: |Suites: |Components: |Signed-By:|Trusted: yes| |$)", line)
    parse_proxies(text)


def test_the_first_reason_of_a_failed_build_is_told() -> None:
    errors = [
        "Err:1 http://gone bookworm InRelease",
        "E: Unable to locate package nosuch",
        "E: mmdebstrap failed to run",
    ]
    assert first_reason(errors) == "Err:1 http://gone bookworm InRelease; E: Unable to locate package nosuch"
    assert first_reason(["E: mmdebstrap failed to run"]) == ""


def test_a_link_of_a_recipes_files_stays_within_them(tmp_path: Path) -> None:
    assert link_target("usr/bin/x", "../lib/y") == "../lib/y" and link_target("x", "/usr/lib/y") == "/usr/lib/y"
    for path, target in (("usr/x", "../../etc/shadow"), ("x", ".."), ("a/b/c", "../../../x")):
        with pytest.raises(Problem, match="leads out of them"):
            link_target(path, target)


def test_no_link_of_a_recipe_is_followed_on_the_host(tmp_path: Path) -> None:
    secret, files = tmp_path / "secret", tmp_path / "recipe/files"
    secret.write_text("secret")
    (files / "etc").mkdir(parents=True)
    (files / "etc/own").write_text("own")
    (files / "etc/link").symlink_to("/etc/hostname")
    source = tmp_path / "tree.tar"
    with tarfile.open(source, "w"):
        pass
    recipe = Recipe(name="x", kind=Kind.APP, base="base", apps={}, files="files")
    whole = pack_tree(source, recipe, tmp_path / "recipe", {}, tmp_path / "drive.tar").whole
    assert stat.S_ISLNK(whole["etc/link"].mode) and whole["etc/link"].content == "/etc/hostname"
    (files / "etc/out").symlink_to("../../../secret")
    with pytest.raises(Problem, match="leads out of them"):
        pack_tree(source, recipe, tmp_path / "recipe", {}, tmp_path / "drive.tar")
    (files / "etc/out").unlink()
    os.mkfifo(files / "etc/fifo")
    with pytest.raises(Problem, match="neither a file"):
        pack_tree(source, recipe, tmp_path / "recipe", {}, tmp_path / "drive.tar")
    before = digest_of(tmp_path / "recipe")
    (files / "etc/fifo").unlink()
    (files / "etc/link").unlink()
    (files / "etc/link").symlink_to("/etc/passwd")
    assert digest_of(tmp_path / "recipe") != before
    shutil.rmtree(files)
    files.symlink_to(tmp_path)
    with pytest.raises(Problem, match="is a link"):
        pack_tree(source, recipe, tmp_path / "recipe", {}, tmp_path / "drive.tar")


STATUS = """Package: perl-base
Depends: libc6

Package: xterm
Depends: libc6, perl:any | perl-base, debconf (>= 1)

Package: bash
Pre-Depends: dpkg
"""


def a_tree(path: Path, more: dict[str, str]) -> Path:
    files = {
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/info/perl-base.list": "/.\n/usr\n/usr/bin\n/usr/bin/perl\n",
        "var/lib/dpkg/info/dpkg.list": "/.\n/bin\n/usr/bin/dpkg\n",
        "var/lib/dpkg/info/bash.list": "/bin/bash\n",
        "usr/bin/perl": "perl",
        "usr/bin/dpkg": "dpkg",
        "usr/bin/bash": "bash",
        **more,
    }
    with tarfile.open(path, "w") as target:
        link = tarfile.TarInfo("./bin")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
        target.addfile(link)
        for name in ("usr", "usr/bin"):
            directory = tarfile.TarInfo(f"./{name}")
            directory.type = tarfile.DIRTYPE
            target.addfile(directory)
        for name, text in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(text)
            target.addfile(member, io.BytesIO(text.encode()))
    return path


def test_tools_of_a_base_are_apart_and_come_with_who_needs_them(tmp_path: Path) -> None:
    base = Recipe(name="base", kind=Kind.BASE, tools=("perl-base", "dpkg"))
    made = pack_tree(a_tree(tmp_path / "base.tar", {}), base, tmp_path, {}, tmp_path / "drive.tar")
    assert "usr/bin/bash" in made.drive and not {"usr/bin/perl", "usr/bin/dpkg"} & made.drive.keys()
    assert {"usr/bin/perl", "usr/bin/dpkg", "var/lib/dpkg/status"} <= made.tools.keys()
    # Directories on the way are on both; the link that is one is on the drive that VMs have.
    assert "bin" in made.drive and "bin" not in made.tools
    with tarfile.open(tmp_path / "tools.tar") as archive:
        assert "usr/bin/perl" in archive.getnames()
    app = a_tree(tmp_path / "app.tar", {"usr/bin/xterm": "xterm"})
    needy = pack_tree(app, TERM, tmp_path, made.drive, tmp_path / "app-drive.tar", made.tools)
    # xterm needs perl to run; dpkg is needed by nobody who runs.
    assert set(needy.drive) >= {"usr/bin/xterm", "usr/bin/perl"} and "usr/bin/dpkg" not in needy.drive
    asking = pack_tree(
        app, Recipe(name="b", kind=Kind.APP, base="base", tools=("dpkg",)), tmp_path, made.drive, tmp_path / "b.tar",
        made.tools,
    )  # fmt: skip
    assert "usr/bin/dpkg" in asking.drive and "usr/bin/bash" not in asking.drive


def test_bootstrapping_is_pinned(golden: object) -> None:
    argv = commands.bootstrap_argv(
        TERM, "bookworm", Path("/s"), (Path("/b ase"), Path("/tools")), Path("/t"), root=False
    )
    golden("mmdebstrap.argv", "\n".join(argv) + "\n")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("key", "brought", "without"),
    [("sound", "pulseaudio", ["libasound2-plugins"]),
     ("notifications", "dunst", ["default-dbus-session-bus", "xdg-utils"])],
)  # fmt: skip
def test_a_key_brings_packages_and_not_what_those_ask_for(key: str, brought: str, without: list[str]) -> None:
    recipe = parse_recipe("x", Path("x"), f"from: base\npackages: [xterm]\n{key}: yes\napps: {{x: [xterm]}}\n")
    argv = commands.bootstrap_argv(recipe, "bookworm", Path("/s"), (Path("/base"),), Path("/t"), root=False)
    assert f"--include={brought}" in argv and "--include=xterm" in argv
    hooks = [word for word in argv if word.startswith("--setup-hook=") and "dpkg/status" in word]
    assert [package for hook in hooks for package in without if f"'Package: {package}'" in hook] == without
    assert ("etc/okubsd/bus" in tree.made_files(recipe)) == (key == "notifications")


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
    assert tree.render_app(("xterm", "it's")) == (
        "#!/bin/busybox sh\n. /usr/lib/okubsd/found\nfind_program 'xterm'\nexec \"$program\" 'it'\\''s' \"$@\"\n"
    )


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
        names = [
            name
            for name in drive.getnames()
            if not name.startswith("usr/lib") and name.removeprefix("usr/bin/") not in tree.APPLETS
        ]
        assert names == ["etc", "etc/passwd", "usr", "usr/bin", "usr/bin/su", "usr/bin/su2"]
        assert drive.getmember("usr/bin/su").mode == 0o755
        assert drive.getmember("usr/bin/su2").isreg()


def test_directories_of_daemons_stay_and_what_is_in_them_goes() -> None:
    kept = [path for path in ("var/log/nginx", "var/lib/nginx/body", "var/lib/dpkg", "var/log/apt", "var/cache/apt", "var/log")
            if tree.is_kept_directory(path)]  # fmt: skip
    assert kept == ["var/log/nginx", "var/lib/nginx/body"]
    assert not tree.is_kept("var/log/nginx/error.log", Kind.APP)


def test_a_package_of_the_users_own_is_taken_by_its_digest_alone(tmp_path: Path) -> None:
    deb = tmp_path / "closed.deb"
    deb.write_bytes(b"not really")
    good = hashlib.sha256(b"not really").hexdigest()
    text = "from: base\npackages: [xterm]\napps: {{closed: [closed]}}\ndebs: [{{path: {}, sha256: {}}}]\n"
    found = parse_recipe("closed", tmp_path / "r", text.format(deb, good))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    staged = staging.stage_debs(found, scratch)
    assert staged is not None and (staged / "0.deb").read_bytes() == b"not really"
    hook = commands.debs_hook(staged)
    assert "dpkg-deb -x" in hook and "dpkg -i" not in hook and "apt" not in hook
    for path, digest, said in (
        (deb, "0" * 64, "not what the recipe means"),
        (tmp_path / "no.deb", good, "No such file"),
    ):
        wrong = parse_recipe("closed", tmp_path / "r", text.format(path, digest))
        other = tmp_path / digest[:1]
        other.mkdir(exist_ok=True)
        shutil.rmtree(other)
        other.mkdir()
        with pytest.raises(Problem, match=said):
            staging.stage_debs(wrong, other)
    for bad in ("relative.deb", "/x/../y.deb", "/x.rpm"):
        with pytest.raises(BadDescription, match="debs"):
            parse_recipe("closed", tmp_path / "r", text.format(bad, good))
