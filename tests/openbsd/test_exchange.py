"""Images from one host to another: what an archive must be, and what it must not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.errors import Problem
from okubsd.host import builder, door, exchange, signing, store
from okubsd.host.places import Places
from okubsd.images.archive import read_members
from okubsd.images.signify import (
    parse_digests,
    parse_public_key,
    parse_secret_key,
    parse_signed,
    render_digests,
    render_public_key,
)
from okubsd.model import Image, Kind, Part
from okubsd.recipe import Recipe

# signify(1) of OpenBSD; Debian calls it by another name.
_SIGNIFY = shutil.which("signify-openbsd") or "signify"


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def source(tmp_path: Path) -> Places:
    """A user's places with one image in them."""
    places = Places(tmp_path / "from", tmp_path)
    directory = places.images / "term/0123456789ab"
    directory.mkdir(parents=True)
    (directory / "drive.squashfs").write_bytes(b"hsqs" * 1000)
    part = Part("drive.squashfs", store.hash_file(directory / "drive.squashfs"), 4000)
    image = Image(name="term", kind=Kind.APP, build="0123456789ab", recipe="r", base="b" * 12, built=1, parts=(part,))
    (directory / "manifest.json").write_bytes(msgspec.json.encode(image))
    (directory.parent / "current").symlink_to("0123456789ab")
    door.make_private(places.state)
    store.sign(places, image, directory)
    return places


def images(places: Places) -> list[Image]:
    return list(store.all_images(places))


def archive_of(source: Places, tmp_path: Path) -> Path:
    """Return an archive of all images in ``source``."""
    exchange.export_images(source, images(source), tmp_path / "images.tar")
    return tmp_path / "images.tar"


def target_that_trusts(source: Places, tmp_path: Path, name: str = "to") -> Places:
    """Return the places of another user, who trusts the key of ``source``."""
    target = Places(tmp_path / name, tmp_path)
    signing.trust(target, signing.need_own_key(source)[0], "friend")
    return target


def test_what_is_exported_is_imported(source: Places, tmp_path: Path) -> None:
    archive = archive_of(source, tmp_path)
    target = target_that_trusts(source, tmp_path)
    signer = signing.need_own_key(source)[0].fingerprint
    wanted = [msgspec.structs.replace(image, signer=signer) for image in images(source)]
    assert exchange.import_images(target, archive, quiet, for_vmd=False) == wanted
    assert images(target) == wanted
    exchange.import_images(target, archive, quiet, for_vmd=False)
    assert [path.name for path in target.images.iterdir() if path.name not in (".lock", "term")] == []


def test_an_unknown_key_is_refused_with_its_fingerprint_and_what_would_trust_it(source: Places, tmp_path: Path) -> None:
    archive = archive_of(source, tmp_path)
    target = Places(tmp_path / "to", tmp_path)
    fingerprint = signing.need_own_key(source)[0].fingerprint
    with pytest.raises(Problem) as error:
        exchange.import_images(target, archive, quiet, for_vmd=False)
    assert fingerprint in error.value.sentence and f"okubsd key trust {archive} {fingerprint}" in error.value.hint
    assert images(target) == []


def test_a_key_of_its_own_number_is_not_the_trusted_one(source: Places, tmp_path: Path) -> None:
    """Whoever makes a key with the number of a trusted one is still somebody else."""
    archive = archive_of(source, tmp_path)
    target = Places(tmp_path / "to", tmp_path)
    trusted = signing.need_own_key(source)[0]
    other = signing.need_own_key(Places(tmp_path / "other", tmp_path))[0]
    signing.trust(target, msgspec.structs.replace(other, number=trusted.number), "friend")
    with pytest.raises(Problem, match="not trusted here"):
        exchange.import_images(target, archive, quiet, for_vmd=False)


@pytest.mark.parametrize("at", [700, 1300, 1500, 2100, 3000])
def test_one_changed_bit_is_refused(at: int, source: Places, tmp_path: Path) -> None:
    archive = archive_of(source, tmp_path)
    data = bytearray(archive.read_bytes())
    while data[at] == 0:
        at += 1
    data[at] ^= 1
    archive.write_bytes(bytes(data))
    target = target_that_trusts(source, tmp_path)
    with pytest.raises(Problem):
        exchange.import_images(target, archive, quiet, for_vmd=False)
    assert images(target) == []


@pytest.mark.spawns
def test_signify_itself_checks_an_archive(source: Places, tmp_path: Path) -> None:
    archive = archive_of(source, tmp_path)
    below = tmp_path / "unpacked"
    below.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", below], check=True)
    argv = [_SIGNIFY, "-C", "-p", "okubsd.pub", "-x", "SHA256.sig"]
    done = subprocess.run(argv, cwd=below, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "term/drive.squashfs: OK" in done.stdout, done.stderr
    (below / "term/drive.squashfs").chmod(0o600)
    (below / "term/drive.squashfs").write_bytes(b"hsqs")
    assert subprocess.run(argv, cwd=below, capture_output=True, check=False).returncode != 0


@pytest.mark.spawns
def test_a_key_of_signify_is_taken_and_ours_signs_for_it(source: Places, tmp_path: Path) -> None:
    pub, sec = tmp_path / "x.pub", tmp_path / "x.sec"
    subprocess.run([_SIGNIFY, "-G", "-n", "-p", pub, "-s", sec], check=True)
    assert parse_secret_key(sec.read_bytes())[0] == parse_public_key(pub.read_bytes()).number
    message = tmp_path / "message"
    message.write_bytes(b"hello\n")
    subprocess.run([_SIGNIFY, "-S", "-e", "-s", sec, "-m", message, "-x", tmp_path / "signed"], check=True)
    signed = (tmp_path / "signed").read_bytes()
    assert signing.check_signed(parse_public_key(pub.read_bytes()), signed) == b"hello\n"
    own, ours = signing.sign(source, b"hello\n")
    (tmp_path / "ours").write_bytes(ours)
    own_sec = source.state / "key/okubsd.sec"
    argv = [_SIGNIFY, "-V", "-e", "-p", own_sec.with_suffix(".pub"), "-x", tmp_path / "ours", "-m", tmp_path / "out"]
    subprocess.run(argv, check=True)
    subprocess.run([_SIGNIFY, "-S", "-s", own_sec, "-m", message, "-x", tmp_path / "by-them"], check=True)
    assert (tmp_path / "by-them").read_bytes().split(b"\n")[1] == ours.split(b"\n")[1] and own.fingerprint


def test_the_same_images_give_the_same_archive(source: Places, tmp_path: Path) -> None:
    archives = [tmp_path / name for name in ("a.tar", "b.tar")]
    for archive in archives:
        exchange.export_images(source, images(source), archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_a_damaged_image_is_not_exported(source: Places, tmp_path: Path) -> None:
    (source.images / "term/0123456789ab/drive.squashfs").write_bytes(b"hsqs" * 999 + b"xxxx")
    with pytest.raises(Problem, match="is damaged"):
        archive_of(source, tmp_path)
    assert not (tmp_path / "images.tar").exists() and not list(tmp_path.glob(".images*"))


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data) if size is None else size, kind, link
    return info, data


def manifest(**changes: object) -> bytes:
    good = {"name": "term", "kind": "app", "build": "0123456789ab", "recipe": "", "base": "", "built": 1,
            "parts": [{"name": "drive.squashfs", "sha256": hashlib.sha256(b"hsqs").hexdigest(), "size": 4}]}  # fmt: skip
    return json.dumps(good | changes).encode()


def part(name: str = "drive.squashfs", size: int = 4, data: bytes = b"hsqs") -> dict[str, object]:
    return {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": size}


QCOW2 = b"QFI\xfb" + bytes(508)
HOSTILE: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "a path that leads out": [member("../../etc/passwd", b"x")],
    "an absolute path": [member("/etc/passwd", b"x")],
    "a link": [member("term/manifest.json", b"", tarfile.SYMTYPE, "/etc/passwd")],
    "a hard link": [member("term/manifest.json", b"", tarfile.LNKTYPE, "/etc/passwd")],
    "a device": [member("term/manifest.json", b"", tarfile.CHRTYPE)],
    "a sparse file": [member("term/manifest.json", manifest(), tarfile.GNUTYPE_SPARSE)],
    "a long name": [member("././@LongLink", b"a" * 4000, tarfile.GNUTYPE_LONGNAME)],
    "an extended header": [member("term/PaxHeaders", b"30 mtime=1\n" * 4000, tarfile.XHDTYPE)],
    "a global header": [member("pax_global_header", b"30 mtime=1\n", tarfile.XGLTYPE)],
    "a member that says 7 GB": [member("term/manifest.json", b"", size=7 << 30)],
    "a part before its manifest": [member("term/drive.squashfs", b"hsqs")],
    "a manifest that is none": [member("term/manifest.json", b"{")],
    "a manifest of another image": [member("term/manifest.json", manifest(name="base"))],
    "a build that is a path": [member("term/manifest.json", manifest(build="../../../x"))],
    "a base that is a path": [member("term/manifest.json", manifest(base="../x"))],
    "packages with an escape code": [member("term/manifest.json", manifest(packages=["x \x1b]0;y\x07"]))],
    "apps that are no names": [member("term/manifest.json", manifest(apps=["$(id)"]))],
    "no parts": [member("term/manifest.json", manifest(parts=[]))],
    "a part twice": [member("term/manifest.json", manifest(parts=[part(), part()])), member("term/drive.squashfs", b"hsqs")],
    "a part of another kind": [member("term/manifest.json", manifest(parts=[part("vmlinuz")])), member("term/vmlinuz", b"hsqs")],
    "a part that is too large": [member("term/manifest.json", manifest(parts=[part(size=9 << 30)]))],
    "a part that the manifest does not say": [member("term/manifest.json", manifest()), member("term/initrd", b"x")],
    "a part of another size": [member("term/manifest.json", manifest()), member("term/drive.squashfs", b"longer")],
    "a part with other bytes": [member("term/manifest.json", manifest(parts=[part(data=b"hsqt")])), member("term/drive.squashfs", b"hsqs")],
    "a drive that is a qcow2": [member("term/manifest.json", manifest(parts=[part(size=512, data=QCOW2)])), member("term/drive.squashfs", QCOW2)],
    "a boot drive that is a qcow2": [member("term/manifest.json", manifest(kind="boot", parts=[part("boot.img", 512, QCOW2)])), member("term/boot.img", QCOW2)],
    "a part that is missing": [member("term/manifest.json", manifest())],
    "a part of another image": [member("term/manifest.json", manifest()), member("base/drive.squashfs", b"hsqs")],
    "an image whose name is hostile": [member("Term;id/manifest.json", manifest())],
    "a second key": [member("okubsd.pub", b"x")],
}  # fmt: skip


def signed_archive(source: Places, path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """Write an archive of a signer that is trusted, and means it badly."""
    digests = {info.name: hashlib.sha256(data).hexdigest() for info, data in members if info.name[0].isalnum()}
    listed = render_digests({name: digest for name, digest in digests.items() if " " not in name and ";" not in name})
    key, signed = signing.sign(source, listed)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as made:
        for info, data in [member("okubsd.pub", render_public_key(key)), member("SHA256.sig", signed), *members]:
            made.addfile(info, io.BytesIO(data.ljust(info.size, b"\0") if info.size < 1 << 20 else data))
    return path


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_leaves_nothing(what: str, source: Places, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    huge = [pair for pair in HOSTILE[what] if pair[0].size > 1 << 20]
    signed_archive(source, archive, [pair for pair in HOSTILE[what] if pair not in huge])
    if huge:
        with archive.open("r+b") as stream:
            stream.seek(4 * tarfile.BLOCKSIZE)  # behind the key and the list
            stream.write(huge[0][0].tobuf(tarfile.GNU_FORMAT))
    target = target_that_trusts(source, tmp_path)
    with pytest.raises(Problem) as error:
        exchange.import_images(target, archive, quiet, for_vmd=False)
    assert error.value.sentence.isprintable() and "not trusted" not in error.value.sentence
    assert [path.name for path in target.images.iterdir() if path.name != ".lock"] == []


def test_an_archive_that_is_not_signed_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    info, data = member("term/manifest.json", manifest())
    with tarfile.open(archive, "w") as made:
        made.addfile(info, io.BytesIO(data))
    with pytest.raises(Problem, match="is not signed"):
        exchange.import_images(Places(tmp_path / "to", tmp_path), archive, quiet, for_vmd=False)


def test_what_was_imported_says_so_whatever_its_manifest_says(source: Places, tmp_path: Path) -> None:
    archive = signed_archive(
        source, tmp_path / "x.tar",
        [member("term/manifest.json", manifest(built_here=True, signer="me")), member("term/drive.squashfs", b"hsqs")],
    )  # fmt: skip
    (taken,) = exchange.import_images(target_that_trusts(source, tmp_path), archive, quiet, for_vmd=False)
    assert not taken.built_here and taken.signer == signing.need_own_key(source)[0].fingerprint


def test_what_was_built_here_stays_so_when_it_comes_back(source: Places, tmp_path: Path) -> None:
    manifest_path = source.images / "term/0123456789ab/manifest.json"
    built = msgspec.structs.replace(images(source)[0], built_here=True)
    manifest_path.write_bytes(msgspec.json.encode(built))
    store.sign(source, built, manifest_path.parent)
    archive = archive_of(source, tmp_path)
    (taken,) = exchange.import_images(source, archive, quiet, for_vmd=False)
    assert taken.built_here and taken.signer == ""
    # One byte of another build, and it is a stranger's.
    other = Part("drive.squashfs", "0" * 64, 4000)
    manifest_path.write_bytes(msgspec.json.encode(msgspec.structs.replace(built, parts=(other,))))
    (taken,) = exchange.import_images(source, archive, quiet, for_vmd=False)
    assert not taken.built_here and taken.signer


def test_nothing_is_built_over_an_imported_base(
    source: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = source.images / "base/0123456789ab"
    directory.mkdir(parents=True)
    (directory / "drive.squashfs").write_bytes(b"hsqs")
    base = Image(name="base", kind=Kind.BASE, build="0123456789ab", recipe="r", base="", built=1,
                 parts=(Part("drive.squashfs", "0" * 64, 4),), signer="SHA256:x")  # fmt: skip
    (directory / "manifest.json").write_bytes(msgspec.json.encode(base))
    (directory.parent / "current").symlink_to("0123456789ab")
    monkeypatch.setattr("okubsd.host.builder.recipe_directories", lambda places: {"mine": tmp_path})
    recipe = Recipe(name="mine", kind=Kind.APP, base="base", apps={"x": ("x",)}, digest="new")
    with pytest.raises(Problem, match="its base 'base' was imported") as error:
        builder.build(source, recipe, quiet)
    assert error.value.hint == "okubsd image build --force base mine"


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"x" * 2000])
def test_what_is_no_tar_is_said_so(data: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(data)
    with pytest.raises(Problem, match="not a whole tar"):
        exchange.import_images(Places(tmp_path / "to", tmp_path), archive, quiet, for_vmd=False)


@pytest.mark.parametrize("size", [600, 1500, 3000, 5000])
def test_a_tar_that_was_cut_short_is_said_so(size: int, source: Places, tmp_path: Path) -> None:
    short = tmp_path / "short.tar"
    short.write_bytes(archive_of(source, tmp_path).read_bytes()[:size])
    target = target_that_trusts(source, tmp_path)
    with pytest.raises(Problem):
        exchange.import_images(target, short, quiet, for_vmd=False)
    assert images(target) == []


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_refused_in_words(data: bytes) -> None:
    for candidate in (data, tarfile.TarInfo("okubsd.pub").tobuf(tarfile.USTAR_FORMAT) + data):
        try:
            list(read_members(io.BytesIO(candidate)))
        except ValueError as error:
            assert str(error).isprintable()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_refused_in_words(data: bytes) -> None:
    for parse in (parse_public_key, parse_secret_key, parse_signed, parse_digests):
        for candidate in (data, b"untrusted comment: x\n" + data, b"untrusted comment: x\nRWQ" + data + b"\n"):
            with contextlib.suppress(ValueError):
                parse(candidate)
