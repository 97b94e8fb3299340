"""Images that are pushed to a directory and pulled from it, or from a web server that lies, stalls or breaks off."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from okubsd.errors import Misuse, Problem
from okubsd.host import exchange, fetching, mirror, signing, store
from okubsd.host.places import Places
from okubsd.model import Image, Kind, Part
from tests.test_versions import build, silent

pytestmark = pytest.mark.spawns

# The magic of a squashfs: what a part is called, it is.
CONTENT = "hsqs" + "a tree " * 40_000


@pytest.fixture
def here(tmp_path: Path) -> Places:
    """The places of who pushes."""
    (tmp_path / "here").mkdir(mode=0o700)
    return Places(tmp_path / "here", tmp_path, tmp_path)


@pytest.fixture
def there(tmp_path: Path, here: Places) -> Places:
    """The places of who pulls, and trusts the other."""
    (tmp_path / "there").mkdir(mode=0o700)
    made = Places(tmp_path / "there", tmp_path, tmp_path)
    signing.trust(made, signing.need_own_key(here)[0], "friend")
    return made


@pytest.fixture
def pushed(here: Places, tmp_path: Path) -> tuple[Image, Path]:
    image = build(here, "term", CONTENT, 5)
    mirror.push(here, [image], tmp_path / "mirror", silent)
    return image, tmp_path / "mirror"


def pull(there: Places, *sources: object, names: tuple[str, ...] = ()) -> list[Image]:
    return mirror.pull(there, tuple(map(str, sources)), names, silent, for_vmd=False, keys=there)


def test_what_was_pushed_is_pulled_once_and_boots(pushed: tuple[Image, Path], here: Places, there: Places) -> None:
    image, directory = pushed
    (taken,) = pull(there, directory)
    assert taken.build == image.build
    found = store.need_image(there, "term")
    assert not found.built_here and found.signer == signing.need_own_key(here)[0].fingerprint
    store.verify(there, [found], there.state)
    assert pull(there, directory) == []
    assert [path.name for path in (there.images / ".parts").iterdir()] == ["lock"]


def test_a_second_push_replaces_and_forgets(pushed: tuple[Image, Path], here: Places, there: Places) -> None:
    image, directory = pushed
    other = build(here, "gimp", CONTENT + "x", 6)
    newer = build(here, "term", CONTENT + "y", 7)
    mirror.push(here, [other], directory, silent)
    mirror.push(here, [newer], directory, silent)
    assert {taken.build for taken in pull(there, directory)} == {other.build, newer.build}
    assert {path.name for path in (directory / fetching.PARTS).iterdir()} == {
        part.sha256 for one in (other, newer) for part in one.parts
    }
    assert image.parts[0].sha256 not in {path.name for path in (directory / fetching.PARTS).iterdir()}


def test_an_index_of_many_packages_is_pulled_too(pushed: tuple[Image, Path], here: Places, there: Places) -> None:
    many = tuple(f"package-{number} 1.0-{number}" for number in range(60_000))
    mirror.push(here, [build(here, "office", CONTENT + "o", 6, packages=many)], pushed[1], silent)
    assert (pushed[1] / mirror.INDEX).stat().st_size > 1 << 20
    assert {taken.name for taken in pull(there, pushed[1])} == {"term", "office"}


def test_one_image_is_taken_by_its_name(pushed: tuple[Image, Path], here: Places, there: Places) -> None:
    mirror.push(here, [build(here, "gimp", CONTENT + "x", 6)], pushed[1], silent)
    assert [taken.name for taken in pull(there, pushed[1], names=("gimp",))] == ["gimp"]
    with pytest.raises(Problem, match="there is no image 'nosuch' in the index"):
        pull(there, pushed[1], names=("nosuch",))


def test_an_index_of_before_or_one_that_expired_is_refused(
    pushed: tuple[Image, Path], here: Places, there: Places
) -> None:
    image, directory = pushed
    old = (directory / mirror.INDEX).read_bytes()
    mirror.push(here, [build(here, "term", CONTENT + "y", 7)], directory, silent)
    pull(there, directory)
    (directory / mirror.INDEX).write_bytes(old)
    with pytest.raises(Problem, match="has an index of before: number 1, and 2 was seen already"):
        pull(there, directory)
    index = mirror.Index("other", 1, int(time.time()) - 5, (image,))
    (directory / mirror.INDEX).write_bytes(signing.sign(here, msgspec.json.encode(index))[1])
    with pytest.raises(Problem, match="has an index that expired on"):
        pull(there, directory)


def test_another_key_is_refused_and_so_is_another_pusher(
    pushed: tuple[Image, Path], there: Places, tmp_path: Path
) -> None:
    image, directory = pushed
    (tmp_path / "evil").mkdir(mode=0o700)
    evil = Places(tmp_path / "evil", tmp_path, tmp_path)
    with pytest.raises(Problem, match="not trusted here"):
        mirror.push(evil, [build(evil, "term", CONTENT, 9)], directory, silent)
    (directory / mirror.INDEX).write_bytes(
        signing.sign(evil, b'{"name":"x","serial":9,"expires":9999999999,"images":[]}')[1]
    )
    with pytest.raises(Problem, match="not trusted here") as caught:
        pull(there, directory)
    assert "okubsd key trust okubsd.pub" in caught.value.hint
    assert store.current_image(there, image.name) is None


def test_a_byte_that_flips_is_told_by_name_and_another_mirror_helps(
    pushed: tuple[Image, Path], here: Places, there: Places, tmp_path: Path
) -> None:
    image, directory = pushed
    mirror.push(here, [image], tmp_path / "second", silent)
    path = directory / fetching.PARTS / image.parts[0].sha256
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(Problem, match=re.escape("drive.squashfs is not what was signed")):
        pull(there, directory)
    assert store.current_image(there, "term") is None
    assert pull(there, directory, tmp_path / "second")


@pytest.mark.parametrize("change", [b"", b"untrusted comment: x\n", b"\xff" * 100], ids=["empty", "comment", "noise"])
def test_an_index_that_is_none_is_refused(change: bytes, pushed: tuple[Image, Path], there: Places) -> None:
    (pushed[1] / mirror.INDEX).write_bytes(change)
    with pytest.raises(Problem, match="has an index that"):
        pull(there, pushed[1])


def test_a_signed_index_with_a_part_outside_is_refused(pushed: tuple[Image, Path], here: Places, there: Places) -> None:
    image, directory = pushed
    victim = there.state / "victim"
    victim.write_text("mine")
    for part in (
        *(Part("../../evil", "0" * 64, 1), Part("drive.squashfs", "0" * 64, 1 << 50)),
        # A digest is a path, too.
        *(Part("drive.squashfs", sha256, 4) for sha256 in (str(victim), "../victim", "", "A" * 64, "0" * 64 + "\n")),
    ):
        index = mirror.Index("x", 5, int(time.time()) + 60, (msgspec.structs.replace(image, parts=(part,)),))
        (directory / mirror.INDEX).write_bytes(signing.sign(here, msgspec.json.encode(index))[1])
        with pytest.raises(Problem, match="has an index whose image"):
            pull(there, directory)
    assert victim.read_text() == "mine"
    future = mirror.Index("x", 5, int(time.time()) + 60, (msgspec.structs.replace(image, built=1 << 62),))
    (directory / mirror.INDEX).write_bytes(signing.sign(here, msgspec.json.encode(future))[1])
    with pytest.raises(Problem, match="a day that has not come"):
        pull(there, directory)
    bad = msgspec.to_builtins(mirror.Index("x", 5, int(time.time()) + 60, (image,)))
    bad["images"][0]["name"] = "../x"
    (directory / mirror.INDEX).write_bytes(signing.sign(here, json.dumps(bad).encode())[1])
    with pytest.raises(Problem, match=r"has an index whose image '../x' has no name"):
        pull(there, directory)


class Server(http.server.ThreadingHTTPServer):
    """A web server of a directory; ``spoil`` gets each file's bytes and gives what is sent, and what is said."""

    asked: list[tuple[str, str]]
    spoil: Callable[[str, bytes], bytes]
    ranges = True


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    root: Path

    def do_GET(self) -> None:
        where = self.headers.get("Range", "")
        self.server.asked.append((self.path, where))
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = int(where[6:-1]) if where and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        # Who asks may have gone away meanwhile.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(self.server.spoil(self.path, data[start:]))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(pushed: tuple[Image, Path]) -> Iterator[tuple[Server, str]]:
    handler = type("Of", (Handler,), {"root": pushed[1]})
    made = Server(("127.0.0.1", 0), handler)
    made.asked, made.spoil = [], lambda path, data: data
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made, f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_what_broke_off_goes_on(
    ranges: bool, server: tuple[Server, str], there: Places, pushed: tuple[Image, Path]
) -> None:
    made, url = server
    made.ranges = ranges
    made.spoil = lambda path, data: data[: len(data) // 2] if "parts" in path else data
    with pytest.raises(Problem) as caught:
        pull(there, url)
    assert "what was fetched stays" in caught.value.hint
    (left,) = (path for path in (there.images / ".parts").iterdir() if path.name != "lock")
    half = left.stat().st_size
    assert 0 < half < len(CONTENT)
    made.spoil = lambda path, data: data
    made.asked.clear()
    assert pull(there, url)
    assert (f"/parts/{pushed[0].parts[0].sha256}", f"bytes={half}-") in made.asked


def test_a_server_that_is_silent_endless_or_gone_is_told(
    server: tuple[Server, str], there: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = server
    monkeypatch.setattr(mirror, "LARGEST_INDEX", 100)
    with pytest.raises(Problem, match="has an index without an end"):
        pull(there, url)
    monkeypatch.undo()
    monkeypatch.setattr(fetching, "_SILENT", 0.3)
    made.spoil = lambda path, data: time.sleep(1) or b""  # type: ignore[func-returns-value]
    with pytest.raises(Problem, match=r"stopped answering|does not answer"):
        pull(there, url)
    with pytest.raises(Problem, match="does not answer"):
        pull(there, "http://127.0.0.1:1")
    with pytest.raises(Problem, match=r"has no index\.sig: 404"):
        pull(there, f"{url}/nosuch")
    for wrong in ("ftp://x/y", "file:///etc"):
        with pytest.raises(Misuse, match="neither a directory nor of http or https"):
            fetching.is_url(wrong)


def test_a_mirror_that_drips_or_speaks_otherwise_is_told(
    server: tuple[Server, str], there: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = server
    monkeypatch.setattr(mirror, "_INDEX_SECONDS", -1.0)
    with pytest.raises(Problem, match="is too slow"):
        pull(there, url)
    with pytest.raises(Problem, match=r"does not answer as a web server does|does not answer"):
        pull(there, "http://a b/")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n",
        # The body of what leads elsewhere, and the size of a piece.
        b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 99999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_mirror_that_drips_what_is_no_content_is_cut(
    head: bytes, there: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_USEFUL_SECONDS", 0.3)
    ended = threading.Event()

    def drip(listening: socket.socket, head: bytes) -> None:
        end, _ = listening.accept()
        with end, contextlib.suppress(OSError):
            end.sendall(head)
            while not ended.wait(0.02):
                end.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening, head))
        thread.start()
        try:
            with pytest.raises(Problem, match=r"does not answer|stopped answering|is not in the form"):
                pull(there, f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            ended.set()
            thread.join()


def test_a_fifo_in_a_directory_is_not_waited_for(pushed: tuple[Image, Path], there: Places) -> None:
    (pushed[1] / mirror.INDEX).unlink()
    os.mkfifo(pushed[1] / mirror.INDEX)
    with pytest.raises(Problem):
        pull(there, pushed[1])


def test_a_push_follows_no_link_of_somebody_elses(pushed: tuple[Image, Path], here: Places, tmp_path: Path) -> None:
    image, directory = pushed
    victim = tmp_path / "victim"
    victim.write_text("mine")
    digest = image.parts[0].sha256
    (directory / fetching.PARTS / digest).unlink()
    (directory / fetching.PARTS / f".{digest}").symlink_to(victim)
    (directory / fetching.PARTS / "directory").mkdir()
    mirror.push(here, [image], directory, silent)
    assert victim.read_text() == "mine" and (directory / fetching.PARTS / digest).is_file()


def test_older_than_what_is_here_is_not_taken_and_the_others_are(
    pushed: tuple[Image, Path], here: Places, there: Places
) -> None:
    mirror.push(here, [build(here, "zathura", CONTENT + "z", 6)], pushed[1], silent)
    build(there, "term", "hsqsnewer", 50, Kind.APP)
    with pytest.raises(Problem, match="is older than the one that is here"):
        pull(there, pushed[1], names=("term",))
    assert [image.name for image in pull(there, pushed[1])] == ["zathura"]


def test_a_mirror_that_lies_and_breaks_off_keeps_nobody_from_an_honest_one(
    server: tuple[Server, str], there: Places, pushed: tuple[Image, Path], tmp_path: Path
) -> None:
    made, url = server
    made.spoil = lambda path, data: b"hsqs" + b"lies" * 999 if "parts" in path else data
    (image,) = pull(there, url, pushed[1])
    store.verify(there, [image], there.state)
    # Nor from itself, once it is honest again.
    (there.images / "term").rename(tmp_path / "aside")
    (there.images / ".parts" / pushed[0].parts[0].sha256).write_bytes(b"hsqs what an earlier try left")
    made.spoil = lambda path, data: data
    assert pull(there, url)


def test_a_mirror_that_gives_a_byte_a_connection_is_too_slow(
    server: tuple[Server, str], there: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = server
    made.ranges = True
    made.spoil = lambda path, data: data[:1] if "parts" in path else data
    monkeypatch.setattr(fetching, "_RATE_SECONDS", 0.2)
    monkeypatch.setattr(fetching, "_LEAST_RATE", 1 << 20)
    with pytest.raises(Problem, match="is too slow"):
        pull(there, url)
    assert len(made.asked) < 1000


def test_nothing_is_pushed_that_is_not_what_was_signed(
    pushed: tuple[Image, Path], here: Places, tmp_path: Path
) -> None:
    image = pushed[0]
    manifest = here.images / image.name / image.build / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"built":5', '"built":6'))
    changed = store.need_image(here, "term")
    assert changed.built == 6
    with pytest.raises(Problem, match="is not what was signed"):
        mirror.push(here, [changed], tmp_path / "other", silent)
    with pytest.raises(Problem, match="is not what was signed"):
        exchange.export_images(here, [changed], tmp_path / "images.tar")
    assert not (tmp_path / "images.tar").exists()


def test_what_was_pulled_is_not_taken_for_good_once_its_key_is_trusted_no_more(
    pushed: tuple[Image, Path], there: Places
) -> None:
    (image,) = pull(there, pushed[1])
    (found,) = [store.need_image(there, image.name)]
    store.verify(there, [found], there.state)
    signing.distrust(there, "friend")
    with pytest.raises(Problem, match="which is not trusted any more"):
        store.verify(there, [found], there.state)
