"""Containers that become images: layouts and `docker save`, layers laid over each other, and what is hostile in them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription, HostLacks, Misuse, Problem
from okubsd.host import container_source
from okubsd.host.container import pack
from okubsd.host.container_source import as_tar, is_registry
from okubsd.host.installing import _scratch
from okubsd.images.container import Settings, clean_path, environment, program_of, render_service, user_of

CONFIG = {"Entrypoint": ["/bin/httpd"], "Cmd": ["-p", "it's"], "Env": ["A=b c"], "User": "web", "WorkingDir": "/www"}


def member(name: str, data: bytes | None = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.mode = 0o755
    for key, value in fields.items():
        setattr(made, key, value)
    made.size = len(data or b"") if made.isreg() else 0
    return made, data or b""


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for made, data in members:
            archive.addfile(made, io.BytesIO(data) if made.isreg() else None)
    return stream.getvalue()


def rootfs(*layers: bytes) -> dict[str, Any]:
    """Return what a configuration says of its layers: the digest of each as it is unpacked."""
    unpacked = []
    for data in layers:
        with contextlib.suppress(EOFError):
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)  # noqa: PLW2901
        if data[:4] == b"\x28\xb5\x2f\xfd":
            data = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=False).stdout  # noqa: PLW2901
        unpacked.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
    return {"type": "layers", "diff_ids": unpacked}


def saved(path: Path, *layers: bytes, config: dict[str, Any] = CONFIG, **more: Any) -> Path:
    """Write what `docker save` writes."""
    described = {"config": config, "rootfs": rootfs(*layers), **more}
    parts = {"config.json": json.dumps(described).encode()}
    parts |= {f"l{at}/layer.tar": data for at, data in enumerate(layers)}
    manifest = [{"Config": "config.json", "Layers": [name for name in parts if name != "config.json"]}]
    return written(path, {"manifest.json": json.dumps(manifest).encode(), **parts})


def written(path: Path, parts: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as outer:
        for name, data in parts.items():
            made, _ = member(name, data)
            outer.addfile(made, io.BytesIO(data))
    return path


def layout(path: Path, *layers: bytes) -> Path:
    """Write an OCI layout, with an index in its index, as skopeo does of an image for several machines."""
    parts: dict[str, bytes] = {}

    def blob(data: bytes, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        parts[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data), **more}

    config = blob(json.dumps({"config": CONFIG, "architecture": "amd64", "rootfs": rootfs(*layers)}).encode())
    manifest = blob(json.dumps({"config": config, "layers": [blob(gzip.compress(one)) for one in layers]}).encode(),
                    platform={"architecture": "amd64"})  # fmt: skip
    other = blob(b"{}", platform={"architecture": "arm64"})
    index = blob(json.dumps({"manifests": [other, manifest]}).encode())
    return written(path, {"index.json": json.dumps({"manifests": [index]}).encode(), **parts})


FIRST = layer(
    member("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:101:102::/:/bin/sh\n"),
    member("bin/httpd", b"program", mode=0o4755), member("www/old", b"old"), member("www/index.html", b"one", uid=101),
    member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("etc/resolv.conf", b"nameserver 192.0.2.1"),
)  # fmt: skip
SECOND = layer(
    member("www/.wh.old"), member("www/index.html", b"two"), member("hard", type=tarfile.LNKTYPE, linkname="bin/httpd"),
    member("dev/null", type=tarfile.CHRTYPE),
)  # fmt: skip


def packed(source: Path, tmp_path: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    (tmp_path / "scratch").mkdir()
    index = pack(source, tmp_path / "drive.tar", tmp_path / "scratch")
    with tarfile.open(tmp_path / "drive.tar") as drive:
        found = {one.name: (one, drive.extractfile(one).read() if one.isreg() else b"") for one in drive}  # type: ignore[union-attr]
    assert sorted(index) == sorted(found)
    return found


def unpacked_layout(path: Path, *layers: bytes) -> Path:
    """Write an OCI layout as a directory, as `skopeo copy … oci:DIR` does, beside a file that is no part of it."""
    (path / "blobs/sha256").mkdir(parents=True)
    with tarfile.open(layout(path.with_suffix(".whole"), *layers)) as whole:
        for one in whole:
            (path / one.name).write_bytes(whole.extractfile(one).read())  # type: ignore[union-attr]
    (path / "blobs/sha256/notes").symlink_to("/etc/passwd")
    return as_tar(str(path), path.parent, print)


@pytest.mark.parametrize("write", [saved, layout, unpacked_layout])
def test_layers_are_laid_over_each_other(write: Any, tmp_path: Path) -> None:
    found = packed(write(tmp_path / "c.tar", FIRST, SECOND), tmp_path)
    assert found["oci/www/index.html"][1] == b"two" and "oci/www/old" not in found and "oci/dev/null" not in found
    assert found["oci/hard"][1] == b"program" and found["oci/bin/httpd"][0].mode == 0o755
    assert found["oci/link"][0].linkname == "/etc/passwd" and found["oci/etc/resolv.conf"][1] == b""
    assert all(found[f"oci/{place}"][0].isdir() for place in ("dev", "proc", "sys", "tmp"))
    script = found["etc/okubsd/services/00-container"][1].decode()
    line = script.splitlines()[-1]
    words = shlex.split(line.rpartition(" 9<")[0])
    assert words[:5] == ["exec", "setpriv", "--reuid=101", "--regid=102", "--clear-groups"]
    assert words[words.index("--") + 1 :] == ["/bin/httpd", "-p", "it's"]
    assert "A=b c" not in script and words[words.index("A") + 1] == "b c"


def test_an_opaque_directory_hides_what_was_in_it(tmp_path: Path) -> None:
    second = layer(member("www/.wh..wh..opq"), member("www/new", b"new"))
    found = packed(saved(tmp_path / "c.tar", FIRST, second), tmp_path)
    assert [name for name in found if name.startswith("oci/www/")] == ["oci/www/new"]


def test_a_file_in_the_place_of_a_directory_takes_it_away_and_the_other_way_round(tmp_path: Path) -> None:
    second = layer(member("www", b"file"), member("link/below", b"x"))
    found = packed(saved(tmp_path / "c.tar", FIRST, second), tmp_path)
    assert found["oci/www"][1] == b"file" and "oci/www/index.html" not in found
    assert found["oci/link"][0].isdir() and found["oci/link/below"][1] == b"x"


def test_a_path_over_a_link_to_a_directory_leads_to_what_is_there(tmp_path: Path) -> None:
    """As of the link lib to usr/lib, which most distributions have."""
    first = layer(
        member("etc/passwd", b"web:x:101:102::/:/bin/sh\n"), member("usr/lib/libc.so.6", b"c"), member("lib", type=tarfile.SYMTYPE, linkname="usr/lib"),
        member("usr/lib/old", b"old"), member("out", type=tarfile.SYMTYPE, linkname="../../../usr/lib"),
        member("round", type=tarfile.SYMTYPE, linkname="round"), member("usr/lib/below/x", b"x"),
    )  # fmt: skip
    second = layer(
        member("lib/libnew.so.1", b"new"), member("lib/.wh.old"), member("out/below/y", b"y"), member("round/z", b"z"),
        member("hard", type=tarfile.LNKTYPE, linkname="lib/libc.so.6"),
    )  # fmt: skip
    found = packed(saved(tmp_path / "c.tar", first, second), tmp_path)
    assert found["oci/lib"][0].issym() and found["oci/usr/lib/libnew.so.1"][1] == b"new"
    assert "oci/usr/lib/old" not in found and found["oci/usr/lib/below/y"][1] == b"y" and found["oci/hard"][1] == b"c"
    assert found["oci/round"][0].isdir() and found["oci/round/z"][1] == b"z"


def test_a_layer_that_is_there_twice_is_a_link_to_the_first(tmp_path: Path) -> None:
    parts = {"config.json": json.dumps({"config": CONFIG, "rootfs": rootfs(FIRST, FIRST)}).encode()}
    names = ["l0/layer.tar", "l1/layer.tar"]
    manifest = json.dumps([{"Config": "config.json", "Layers": names}]).encode()
    source = written(tmp_path / "c.tar", {"manifest.json": manifest, **parts, "l0/layer.tar": FIRST})
    with tarfile.open(source, "a") as outer:
        outer.addfile(member("l1/layer.tar", type=tarfile.SYMTYPE, linkname="../l0/layer.tar")[0])
    assert packed(source, tmp_path)["oci/www/index.html"][1] == b"one"


@pytest.mark.parametrize("write", [saved, layout])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_byte_that_changes_anywhere_is_told_or_means_nothing(
    write: Any, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("flip")
    whole = write(tmp_path / "c.tar", FIRST, SECOND)
    (tmp_path / "whole").mkdir()
    expected = packed(whole, tmp_path / "whole")
    content = bytearray(whole.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    whole.write_bytes(content)
    try:
        found = packed(whole, tmp_path)
    except Problem:
        return
    # Whose bytes changed nobody signs: a date of the outer archive, or the name of a program in a configuration.
    words = "etc/okubsd/services/00-container"
    assert {name: said for name, (_, said) in found.items() if name != words} == {
        name: said for name, (_, said) in expected.items() if name != words
    }


def test_words_of_a_member_without_an_end_are_not_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a" * (2 << 20)))
    with pytest.raises(Problem, match="words without an end"):
        packed(saved(tmp_path / "c.tar", gzip.compress(stream.getvalue())), tmp_path)


HOSTILE = {
    "outside": (layer(member("../../etc/passwd")), "leads out of it"),
    "outside below": (layer(member("a/../../b")), "leads out of it"),
    "newline": (layer(member("a\nb")), "leads out of it"),
    "link outside": (layer(member("a", type=tarfile.LNKTYPE, linkname="../../etc/shadow")), "leads out of it"),
    "link to nothing": (layer(member("a", type=tarfile.LNKTYPE, linkname="b")), "is not there"),
    "no tar": (b"x" * 3000, "no whole container image"),
    "cut gzip": (gzip.compress(FIRST)[:-100], "no whole container image"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"x" * 100, "zstd does not unpack it"),
}


@pytest.mark.spawns
@pytest.mark.parametrize(("bad", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_hostile_is_told_and_nothing_is_made(bad: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with pytest.raises(Problem, match=said):
        pack(saved(tmp_path / "c.tar", FIRST, bad), tmp_path / "drive.tar", tmp_path / "scratch")
    assert not (tmp_path / "drive.tar").exists()


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-cq", *options], input=data, capture_output=True, check=True).stdout


@pytest.mark.spawns
def test_layers_that_zstd_packed_are_taken_within_the_same_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = packed(saved(tmp_path / "a.tar", FIRST), tmp_path)
    (tmp_path / "again").mkdir()
    same = packed(saved(tmp_path / "b.tar", zstd(FIRST, "-19")), tmp_path / "again")
    assert {name: data for name, (_, data) in same.items()} == {name: data for name, (_, data) in plain.items()}
    (tmp_path / "scratch").mkdir(exist_ok=True)
    shutil.rmtree(tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("okubsd.host.container._LARGEST", 1 << 20)
    bomb = zstd(layer(member("zeros", bytes(8 << 20))))
    with pytest.raises(Problem, match="larger than 8 GB"):
        pack(saved(tmp_path / "c.tar", bomb), tmp_path / "drive.tar", tmp_path / "scratch")
    assert not list((tmp_path / "scratch").glob("*.zst"))


def test_a_bomb_is_told_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okubsd.host.container._LARGEST", 1 << 20)
    bomb = gzip.compress(layer(member("zeros", bytes(8 << 20))))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(Problem, match="larger than 8 GB"):
        pack(saved(tmp_path / "c.tar", bomb), tmp_path / "drive.tar", tmp_path / "scratch")


def test_a_changed_blob_is_told(tmp_path: Path) -> None:
    path = layout(tmp_path / "c.tar", FIRST)
    data = path.read_bytes()
    at = data.index(gzip.compress(FIRST)[20:60])
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    (tmp_path / "scratch").mkdir()
    with pytest.raises(Problem, match="is damaged"):
        pack(path, tmp_path / "drive.tar", tmp_path / "scratch")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "neither index.json nor manifest.json"),
        ({"manifest.json": b"[]"}, "lacks ''"),
        ({"manifest.json": b"{"}, "is not what it should be"),
        ({"manifest.json": b"\xff"}, "is not what it should be"),
        ({"manifest.json": b'[{"Config": "c", "Layers": []}]', "c": b"{}"}, "has no layers"),
        (
            {"manifest.json": b'[{"Config": "c", "Layers": ["x"]}]', "c": json.dumps({"rootfs": rootfs(b"")}).encode()},
            "lacks 'x'",
        ),
        ({"manifest.json": b'[{"Config": "c", "Layers": ["x"]}]', "c": b"{}"}, "what each of its layers is"),
        ({"manifest.json": b'[{"Config": "c", "Layers": [7]}]', "c": b"{}"}, "is not what it should be"),
        ({"manifest.json": b"[[]]"}, "is not what it should be"),
        ({"index.json": b'{"manifests": [{"digest": 7}]}'}, "is not what it should be"),
        ({"index.json": b'{"layers": 7}'}, "is not what it should be"),
        ({"manifest.json": b'[{"Config": "c", "Layers": ["x"]}]', "c": b'{"architecture": "arm64"}'}, "is for 'arm64'"),
        ({"index.json": b'{"manifests": [{"digest": "md5:1"}]}'}, "no SHA-256"),
        ({"index.json": b'{"manifests": []}'}, "no SHA-256"),
    ],
)
def test_what_is_no_container_is_told(parts: dict[str, bytes], said: str, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with pytest.raises(Problem, match=said):
        pack(written(tmp_path / "c.tar", parts), tmp_path / "drive.tar", tmp_path / "scratch")


@given(st.text(max_size=60))
def test_a_path_stays_below_its_root_or_is_told(name: str) -> None:
    try:
        path = clean_path(name)
    except Problem:
        return
    assert not path.startswith("/") and ".." not in path.split("/")


PASSWD, GROUP = "root:x:0:0:::\nweb:x:101:102:::\n", "web:x:102:\nlog:x:7:\n"


@pytest.mark.parametrize(
    ("user", "ids"),
    [("", (0, 0)), ("root", (0, 0)), ("web", (101, 102)), ("web:log", (101, 7)), ("5", (5, 0)), ("5:6", (5, 6))],
)
def test_a_user_is_one_of_the_containers(user: str, ids: tuple[int, int]) -> None:
    assert user_of(user, PASSWD, GROUP) == ids


@pytest.mark.parametrize("user", ["nobody", "web:nogroup", "-1", "9999999999", "1:x", "$(id)"])
def test_a_user_that_is_none_is_told(user: str) -> None:
    with pytest.raises(Problem, match="is not in it"):
        user_of(user, PASSWD, GROUP)


def test_words_are_words_whatever_they_are() -> None:
    settings = Settings(
        entrypoint=("$(reboot)", "a b"), cmd=("'",), env=("X=$(id)", "no", "1=2", "Y="), directory="/a b"
    )
    script = render_service(settings, (0, 0))
    words = shlex.split(script.splitlines()[-1].rpartition(" 9<")[0])
    assert words[-3:] == ["$(reboot)", "a b", "'"] and words[words.index("--chdir") + 1] == "/a b"
    assert environment(settings) == {"PATH": environment(Settings())["PATH"], "X": "$(id)", "Y": ""}
    assert words[words.index("--cap-drop") + 1] == "ALL"


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(cmd=("",)), Settings(cmd=("a\nb",)), Settings(cmd=("a", "\0"))]
)
def test_a_program_that_is_none_is_told(settings: Settings) -> None:
    with pytest.raises(Problem, match="does not say which program"):
        program_of(settings)


def test_a_recipe_of_a_container_has_nothing_else() -> None:
    assert parse_recipe("x", Path("r"), "from: base\ncontainer: container.tar\n").container == "container.tar"
    for more in ("packages: [nginx]", "apps: {a: [a]}", "services: [a]", "files: files"):
        with pytest.raises(BadDescription):
            parse_recipe("x", Path("r"), f"from: base\ncontainer: container.tar\n{more}\n")
    with pytest.raises(BadDescription):
        parse_recipe("x", Path("r"), "from: base\ncontainer: ../x.tar\n")


def test_a_directory_without_an_index_is_no_container(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="is no OCI layout"):
        as_tar(str(tmp_path), tmp_path, print)
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    os.mkfifo(tmp_path / "blobs/sha256" / ("0" * 64))
    with pytest.raises(Problem, match="is no regular file"):
        as_tar(str(tmp_path), tmp_path, print)


@pytest.mark.parametrize(
    "name", ["docker://-x", "docker://a b", "docker://--policy=x/y", "docker://", "docker://x;y", "docker://x@sha256:1"]
)
def test_what_is_no_name_of_an_image_is_asked_of_nobody(name: str) -> None:
    with pytest.raises(Misuse):
        is_registry(name)
    assert not is_registry("container.tar") and is_registry("docker://docker.io:443/library/nginx:1.27")


SKOPEO = """\
#!/bin/sh
echo "$*" >>"$0.asked"
case $* in
*broken*) echo "unauthorized" >&2; exit 1 ;;
*endless*) while :; do echo "a line of a registry that talks for ever"; done ;;
*silent*) exec sleep 1000 ;;
esac
for target; do :; done
cp "$0.tar" "${target#oci-archive:}"
"""


@pytest.mark.spawns
def test_a_registry_is_asked_by_skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "skopeo"
    program.write_text(SKOPEO)
    program.chmod(0o755)
    layout(tmp_path / "skopeo.tar", FIRST)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "work").mkdir()
    found = packed(as_tar("docker://example.org/a:1", tmp_path / "work", print), tmp_path)
    assert found["oci/bin/httpd"][1] == b"program"
    asked = (tmp_path / "skopeo.asked").read_text()
    assert asked.startswith(
        "--override-os linux --override-arch amd64 copy --quiet docker://example.org/a:1 oci-archive:"
    )
    with pytest.raises(Problem, match="did not come: unauthorized"):
        as_tar("docker://example.org/broken", tmp_path / "work", print)
    with pytest.raises(Problem, match="does not come to an end"):
        as_tar("docker://example.org/endless", tmp_path / "work", print)
    monkeypatch.setattr(container_source, "_FETCH_SECONDS", 0.3)
    with pytest.raises(Problem, match="did not come within an hour"):
        as_tar("docker://example.org/silent", tmp_path / "work", print)


def test_what_a_killed_import_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".container-left").mkdir()
    (tmp_path / ".container-left/layer-0").write_bytes(b"x")
    with _scratch(tmp_path) as scratch:
        assert Path(scratch).is_dir() and not (tmp_path / ".container-left").exists()
    assert list(tmp_path.iterdir()) == []


def test_without_skopeo_it_is_said_how_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("okubsd.host.programs.find_program", lambda name: None)
    with pytest.raises(HostLacks, match="no skopeo"):
        as_tar("docker://example.org/a:1", tmp_path, print)
