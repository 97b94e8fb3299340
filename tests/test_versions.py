"""The builds of an image that are kept: signed, compared, gone back to, let go; and what fits what."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd import layout
from okubsd.errors import Problem, Unknown
from okubsd.host import signing, store, versions
from okubsd.host.places import Places
from okubsd.host.trying import as_built
from okubsd.images.apt import Offer, own_packages, parse_debs, parse_offers, upgrades
from okubsd.images.fitting import compare, fit_mistakes, needs_of
from okubsd.images.tree import Node
from okubsd.model import Image, Kind, Part
from okubsd.recipe import Recipe

FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "state").mkdir(mode=0o700)
    return Places(tmp_path / "state", tmp_path, tmp_path)


def build(places: Places, name: str, content: str, built: int, kind: Kind = Kind.APP, **more: object) -> Image:
    """Put a build of image ``name`` in place, as builder does, and return it."""
    made = places.state / "made"
    made.mkdir()
    (made / layout.SQUASHFS).write_text(content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    image = Image(name=name, kind=kind, build=digest[:12], recipe="", base="", built=built,
                  parts=(Part(layout.SQUASHFS, digest, len(content)),), built_here=True)  # fmt: skip
    image = msgspec.structs.replace(image, **more)
    places.images.mkdir(exist_ok=True)
    store.publish(places, image, made)
    return image


def silent(line: str) -> None:
    """Tell nobody."""


def test_every_build_is_kept_and_the_last_is_current(places: Places) -> None:
    first, second = build(places, "term", "one", 1), build(places, "term", "two", 2)
    found = versions.versions(places, "term")
    assert [(version.image, version.current) for version in found] == [(second, True), (first, False)]


def test_a_build_that_was_never_tried_is_no_version_and_goes(places: Places) -> None:
    first = build(places, "term", "one", 1)
    made = places.state / "made"
    shutil.copytree(places.images / "term" / first.build, made)
    store.keep(places, msgspec.structs.replace(first, build="0123456789ab"), made)
    assert versions.builds(places, "term") == [first]
    (places.images / "term" / first.build / layout.UNTRIED).touch()
    store.discard_untried(places)
    names = sorted(path.name for path in (places.images / "term").iterdir())
    assert names == sorted([first.build, layout.CURRENT]) and versions.builds(places, "term") == [first]


def test_rollback_goes_back_one_build_or_to_the_one_that_is_named(places: Places) -> None:
    first, second, third = (build(places, "term", text, at) for at, text in enumerate(("one", "two", "three")))
    assert versions.rollback(places, "term", "", silent) == second
    assert versions.rollback(places, "term", "", silent) == first == store.current_image(places, "term")
    with pytest.raises(Unknown, match="no build before"):
        versions.rollback(places, "term", "", silent)
    assert versions.rollback(places, "term", third.build[:5], silent) == third
    with pytest.raises(Unknown, match="has no build 'fff'"):
        versions.rollback(places, "term", "fff", silent)


def test_rollback_takes_nothing_that_is_damaged(places: Places) -> None:
    first, second = build(places, "term", "one", 1), build(places, "term", "two", 2)
    store.part_path(places, first, layout.SQUASHFS).write_text("evil")
    with pytest.raises(Problem, match="damaged"):
        versions.rollback(places, "term", "", silent)
    assert store.current_image(places, "term") == second


def test_prune_keeps_the_newest_and_what_is_current_or_built_upon(places: Places) -> None:
    bases = [build(places, "base", f"base {at}", at, Kind.BASE) for at in range(4)]
    build(places, "term", "term", 9, base=bases[0].build)
    versions.rollback(places, "base", bases[1].build, silent)
    assert versions.prune(places, ("base", "term"), 1, silent, dry=True) == [bases[2]]
    assert len(versions.builds(places, "base")) == 4
    assert versions.prune(places, ("base", "term"), 1, silent) == [bases[2]]
    assert versions.builds(places, "base") == [bases[3], bases[1], bases[0]]


def test_what_is_not_signed_does_not_boot_until_it_is(places: Places) -> None:
    image = build(places, "term", "one", 1)
    (places.images / "term" / image.build / layout.SIGNED).unlink()
    with pytest.raises(Problem, match="is not signed"):
        store.verify(places, [image], places.state)
    store.sign(places, image, places.images / "term" / image.build)
    store.verify(places, [image], places.state)


def test_a_build_that_another_key_signed_is_refused(places: Places, tmp_path: Path) -> None:
    image = build(places, "term", "one", 1)
    other = Places(tmp_path / "other", tmp_path, tmp_path)
    store.sign(other, image, places.images / "term" / image.build)
    with pytest.raises(Problem, match="a key that is not trusted here"):
        store.verify(places, [image], places.state)
    signing.trust(places, signing.need_own_key(other)[0], "friend")
    store.verify(places, [image], places.state)
    signing.distrust(places, "friend")
    with pytest.raises(Problem, match="a key that is not trusted here"):
        store.verify(places, [image], places.state)


@pytest.mark.parametrize("name", [layout.SQUASHFS, layout.MANIFEST, layout.SIGNED])
@given(st.data())
def test_a_bit_that_flips_anywhere_is_found(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("flip")
    places = Places(tmp_path / "state", tmp_path, tmp_path)
    places.state.mkdir(mode=0o700)
    image = build(places, "term", "the tree", 1)
    store.verify(places, [image], places.state)
    path = places.images / "term" / image.build / name
    content = bytearray(path.read_bytes())
    # The first line of a signature is a comment, which nobody signs.
    first = content.index(b"\n") + 1 if name == layout.SIGNED else 0
    at = data.draw(st.integers(first, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.chmod(0o644)
    path.write_bytes(content)
    found = store.read_image(path.parent)
    if found is not None:
        with pytest.raises(Problem):
            store.verify(places, [found], places.state)
    assert list(versions.damaged(places, "term")) == [image.build]


def test_verify_reads_every_build_again(places: Places) -> None:
    first, _ = build(places, "term", "one", 1), build(places, "term", "two", 2)
    assert versions.damaged(places, "term") == {}
    path = store.part_path(places, first, layout.SQUASHFS)
    path.chmod(0o644)
    path.write_text("eno")
    assert list(versions.damaged(places, "term")) == [first.build]


@pytest.mark.spawns
@pytest.mark.skipif(shutil.which("signify-openbsd") is None, reason="needs signify(1)")
def test_signify_itself_checks_a_build(places: Places) -> None:
    image = build(places, "term", "one", 1)
    key = places.state / layout.STATE_KEY / f"{signing.OWN}.pub"
    done = subprocess.run(
        ["signify-openbsd", "-C", "-p", str(key), "-x", layout.SIGNED],
        cwd=places.images / "term" / image.build, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


VERSION = st.from_regex(r"(?:[0-9]:)?[0-9][0-9a.+~]{0,6}(?:-[0-9a.+~]{1,4})?", fullmatch=True)


@pytest.mark.spawns
@given(VERSION, VERSION)
def test_versions_are_ordered_as_dpkg_orders_them(one: str, other: str) -> None:
    def says(word: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, word, other], check=False).returncode == 0

    order = compare(one, other)
    assert (says("lt"), says("eq"), says("gt")) == (order < 0, order == 0, order > 0)


def index(**files: str) -> dict[str, Node]:
    return {path.replace("__", "/"): Node(FILE, 0, 0, content) for path, content in files.items()}


LIB = "usr/lib/x86_64-linux-gnu/"


def test_an_app_needs_the_libraries_of_its_base_by_their_names_and_what_it_hides_unchanged() -> None:
    base = {
        f"{LIB}libz.so.1": Node(LINK, 0, 0, "libz.so.1.2"),
        f"{LIB}libz.so.1.2": Node(FILE, 0, 0, "z"),
        f"{LIB}libc.so.6": Node(FILE, 0, 0, "c"),
        "usr/bin/tool": Node(FILE, 0, 0, "old"),
        "etc/passwd": Node(FILE, 0, 0, "p"),
    }
    whole = {**base, "usr/bin/tool": Node(FILE, 0, 0, "new"), "etc/passwd": Node(FILE, 0, 0, "q")}
    assert needs_of(whole, base) == {f"{LIB}libz.so.1": "", f"{LIB}libc.so.6": "", "usr/bin/tool": "old new"}


BASE = Image(name="base", kind=Kind.BASE, build="b2", recipe="", base="", built=2, parts=(), packages=("libc6 2.36-9",))
APP = msgspec.structs.replace(BASE, name="app", kind=Kind.APP, build="a", base="b1", packages=("libc6 2.36-8", "x 1"))


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ({}, ""),
        ({"base": "b2", "packages": ("libc6 2.37-1",)}, ""),
        ({"packages": ("libc6 2.36-9+deb12u1",)}, "made with libc6 2.36-9+deb12u1, and the base has 2.36-9"),
        ({"needs": {"usr/lib/libssl.so.1.1": ""}}, "needs /usr/lib/libssl.so.1.1"),
        ({"needs": {"usr/lib/libssl.so.3": ""}}, ""),
        ({"needs": {"usr/lib/libssl.so.3": "three"}}, ""),
        ({"needs": {"usr/lib/libssl.so.3": "two"}}, "would hide the base's newer /usr/lib/libssl.so.3"),
        ({"needs": {"usr/lib/libssl.so.3": "two one"}}, "would hide the base's newer /usr/lib/libssl.so.3"),
        # The base has caught up with what the app has.
        ({"needs": {"usr/lib/libssl.so.3": "two three"}}, ""),
    ],
)
def test_what_fits_a_base_and_what_does_not(app: dict[str, object], said: str) -> None:
    tree = {"usr/lib/libssl.so.3": Node(FILE, 0, 0, "three")}
    found = fit_mistakes(msgspec.structs.replace(APP, **app), BASE, tree)
    assert [bool(said), *(said in line for line in found)] == [bool(said), *([True] if said else [])]


def test_rollback_of_a_base_that_an_app_has_outgrown_is_refused(places: Places) -> None:
    build(places, "base", "old", 1, Kind.BASE, packages=("libc6 2.36-8",))
    base = build(places, "base", "new", 2, Kind.BASE, packages=("libc6 2.36-9",))
    build(places, "term", "term", 3, base=base.build, packages=("libc6 2.36-9", "xterm 379"))
    with pytest.raises(Problem, match=r"does not fit the base .* it was made with libc6 2\.36-9"):
        versions.rollback(places, "base", "", silent)
    assert store.current_image(places, "base") == base


def test_rollback_of_an_app_asks_its_own_base_only(places: Places) -> None:
    base = build(places, "base", "base", 1, Kind.BASE, packages=("libc6 2.36-9",))
    build(places, "other", "other", 2, Kind.BASE, packages=("libc6 2.30-1",))
    older = build(places, "term", "old", 3, base=base.build, packages=("libc6 2.36-9",))
    build(places, "term", "new", 4, base=base.build, packages=("libc6 2.36-9",))
    assert versions.rollback(places, "term", "", silent) == older


def test_a_new_base_tells_which_apps_do_not_run_on_it(places: Places) -> None:
    base = build(places, "base", "old", 1, Kind.BASE, packages=("libc6 1",))
    app = build(places, "term", "app", 2, base=base.build, packages=("libc6 1",))
    build(places, "other", "of another base", 3, base="0" * 12)
    assert versions.misfits(places) == []
    build(places, "base", "new", 4, Kind.BASE, packages=("libc6 0",))
    ((found, why),) = versions.misfits(places)
    assert found == app and "'term' does not fit the base 'base' of today" in why


def test_a_manifest_that_cannot_be_read_is_damage(places: Places) -> None:
    image = build(places, "term", "tree", 1)
    manifest = places.images / "term" / image.build / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text()[1:])
    assert versions.names_here(places) == ["term"]
    assert "no manifest that can be read" in versions.damaged(places, "term")[image.build]


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_switch_that_is_killed_is_finished_by_who_comes_next(
    cut: int, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [build(places, name, f"{name} old", 1) for name in ("a", "b", "c")]
    new = [build(places, name, f"{name} new", 2) for name in ("a", "b", "c")]
    for image in old:
        store.make_current(places, image)
    real, done = store.make_current, []

    def killed(where: Places, image: Image) -> None:
        if len(done) == cut:
            raise KeyboardInterrupt
        done.append(image)
        real(where, image)

    monkeypatch.setattr(store, "make_current", killed)
    with pytest.raises(KeyboardInterrupt):
        store.switch(places, new)
    monkeypatch.setattr(store, "make_current", real)
    store.discard_untried(places)
    assert [store.current_image(places, image.name) for image in new] == new
    store.finish_switch(places)
    (places.images / ".switch").write_bytes(b"{")
    store.discard_untried(places)
    assert [store.current_image(places, image.name) for image in new] == new


MADISON = """\
     xterm |      379-1 | http://deb.example.org/debian bookworm/main amd64 Packages
  libc6 | 2.36-9+deb12u14 | http://deb.example.org/debian bookworm/main amd64 Packages
     libc6 | 2.36-9+deb12u15 | http://security.example.org/debian-security bookworm-security/main amd64 Packages
     libc6 | 2.36-9+deb12u13 | http://deb.example.org/debian bookworm-updates/main amd64 Packages
 \x1b[2Jevil |  1 | http://deb.example.org/debian bookworm/main amd64 Packages
W: not a line
"""


def test_the_newest_offer_counts_and_where_it_is_from() -> None:
    offers = parse_offers(MADISON)
    assert offers == {"xterm": Offer("379-1", False), "libc6": Offer("2.36-9+deb12u15", True)}
    found = upgrades({"xterm": "379-1", "libc6": "2.36-9+deb12u14", "local": "1"}, offers)
    assert [(one.package, one.old, one.new, one.security) for one in found] == [
        ("libc6", "2.36-9+deb12u14", "2.36-9+deb12u15", True)
    ]


def test_the_packages_of_an_app_are_those_that_its_base_has_not() -> None:
    assert own_packages({"libc6": "2", "xterm": "1", "libz": "3"}, {"libc6": "2", "libz": "2"}) == {
        "xterm": "1", "libz": "3"
    }  # fmt: skip


def test_what_was_fetched_for_a_boot_image_is_read_by_the_names_of_files() -> None:
    names = ["busybox-static_1%3a1.35.0-4_amd64.deb", "linux-base_4.9_all.deb", "partial", "../x_1_amd64.deb", "lock"]
    assert parse_debs(names) == ("busybox-static 1:1.35.0-4", "linux-base 4.9")


def test_a_trial_starts_what_was_built_though_a_recipe_has_changed_since() -> None:
    recipes = {name: Recipe(name=name, kind=Kind.APP, digest="new") for name in ("app", "other")}
    found = as_built(recipes, [msgspec.structs.replace(APP, recipe="old")])
    assert (found["app"].digest, found["other"].digest) == ("old", "new")


def test_a_current_build_that_bears_its_mark_still_is_not_lost(places: Places) -> None:
    for number in range(20):
        image = build(places, f"term{number}", "one", 1)
        # Killed between the switch and the mark's end.
        (places.images / image.name / image.build / layout.UNTRIED).touch()
    store.discard_untried(places)
    assert len(list(store.all_images(places))) == 20


def test_the_same_build_again_is_there_at_every_moment(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(places, "term", "one", 1)
    monkeypatch.setattr(store, "_sync", lambda directory: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="gone"):
        build(places, "term", "one", 2)
    assert store.current_image(places, "term") == first
    monkeypatch.undo()
    shutil.rmtree(places.state / "made")
    again = build(places, "term", "one", 3)
    assert store.current_image(places, "term") == again and again.built == 3


def test_what_is_current_is_what_its_manifest_says(places: Places) -> None:
    image = build(places, "term", "one", 1)
    top = places.images / "term"
    shutil.copytree(top / image.build, top / "feedfeedfeed")
    (top / layout.CURRENT).unlink()
    (top / layout.CURRENT).symlink_to("feedfeedfeed")
    assert store.current_image(places, "term") is None
    (top / layout.CURRENT).unlink()
    (top / layout.CURRENT).symlink_to(f"../term/{image.build}")
    assert store.current_image(places, "term") is None
    shutil.copytree(top, places.images / "vault", symlinks=True)
    (places.images / "vault" / layout.CURRENT).unlink()
    (places.images / "vault" / layout.CURRENT).symlink_to(image.build)
    assert store.current_image(places, "vault") is None and versions.builds(places, "vault") == []
