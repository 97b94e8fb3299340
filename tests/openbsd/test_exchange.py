"""Images from one host to another: what an archive must be, and what it must not."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from okubsd.errors import Problem
from okubsd.host import exchange, store
from okubsd.host.places import Places
from okubsd.model import Image, Kind, Part


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
    image = Image(name="term", kind=Kind.APP, build="0123456789ab", recipe="r", base="b", built=1, parts=(part,))
    (directory / "manifest.json").write_bytes(msgspec.json.encode(image))
    (directory.parent / "current").symlink_to("0123456789ab")
    return places


def images(places: Places) -> list[Image]:
    return list(store.all_images(places))


def test_what_is_exported_is_imported(source: Places, tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    exchange.export_images(source, images(source), archive)
    target = Places(tmp_path / "to", tmp_path)
    assert exchange.import_images(target, archive, quiet, for_vmd=False) == images(source)
    assert images(target) == images(source)
    exchange.import_images(target, archive, quiet, for_vmd=False)
    assert [path.name for path in target.images.iterdir() if path.name not in (".lock", "term")] == []


def test_the_same_images_give_the_same_archive(source: Places, tmp_path: Path) -> None:
    archives = [tmp_path / name for name in ("a.tar", "b.tar")]
    for archive in archives:
        exchange.export_images(source, images(source), archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def manifest(**changes: object) -> bytes:
    good = {"name": "term", "kind": "app", "build": "0123456789ab", "recipe": "", "base": "", "built": 1,
            "parts": [{"name": "drive.squashfs", "sha256": "0" * 64, "size": 4}]}  # fmt: skip
    return json.dumps(good | changes).encode()


HOSTILE: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "a path that leads out": [member("../../etc/passwd", b"x")],
    "an absolute path": [member("/etc/passwd", b"x")],
    "a link": [member("term/manifest.json", b"", tarfile.SYMTYPE, "/etc/passwd")],
    "a hard link": [member("term/manifest.json", b"", tarfile.LNKTYPE, "/etc/passwd")],
    "a device": [member("term/manifest.json", b"", tarfile.CHRTYPE)],
    "a part before its manifest": [member("term/drive.squashfs", b"hsqs")],
    "a manifest that is none": [member("term/manifest.json", b"{")],
    "a manifest of another image": [member("term/manifest.json", manifest(name="base"))],
    "a build that is a path": [member("term/manifest.json", manifest(build="../../../x"))],
    "a part that the manifest does not say": [member("term/manifest.json", manifest()), member("term/initrd", b"x")],
    "a part of another size": [member("term/manifest.json", manifest()), member("term/drive.squashfs", b"longer")],
    "a part with other bytes": [member("term/manifest.json", manifest()), member("term/drive.squashfs", b"hsqs")],
    "a part that is missing": [member("term/manifest.json", manifest())],
    "a part of another image": [member("term/manifest.json", manifest()), member("base/drive.squashfs", b"hsqs")],
    "an image whose name is hostile": [member("Term;id/manifest.json", manifest())],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_leaves_nothing(what: str, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as made:
        for info, data in HOSTILE[what]:
            made.addfile(info, io.BytesIO(data))
    target = Places(tmp_path / "to", tmp_path)
    with pytest.raises(Problem):
        exchange.import_images(target, archive, quiet, for_vmd=False)
    assert [path.name for path in target.images.iterdir() if path.name != ".lock"] == []


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"x" * 2000])
def test_what_is_no_tar_is_said_so(data: bytes, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(data)
    with pytest.raises(Problem, match="not a whole tar"):
        exchange.import_images(Places(tmp_path / "to", tmp_path), archive, quiet, for_vmd=False)


def test_a_tar_that_was_cut_short_is_said_so(source: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "images.tar"
    exchange.export_images(source, images(source), archive)
    cut: Callable[[int], bytes] = lambda size: archive.read_bytes()[:size]  # noqa: E731
    for size in (600, 1500, 3000):
        short = tmp_path / f"{size}.tar"
        short.write_bytes(cut(size))
        target = Places(tmp_path / f"to{size}", tmp_path)
        with pytest.raises(Problem):
            exchange.import_images(target, short, quiet, for_vmd=False)
        assert images(target) == []
