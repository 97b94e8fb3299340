"""The main job: a real Firefox, from a cold state, showing a page that was copied in."""

from __future__ import annotations

from pathlib import Path

from tests.vm.world import World, share_of, wait_until

COLOR = (18, 140, 84)
PAGE = f"""<!doctype html><title>okubsd</title>
<style>body {{ background: rgb{COLOR}; margin: 0 }}</style>
"""


def test_firefox_shows_a_local_page(world: World, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "browser.png"
    page.write_text(PAGE)
    world.ok("image", "build", "firefox")
    world.ok("cp", str(page), "browser:")
    world.ok("start", "browser", "firefox", "--headless", "--", "/home/user/page.html")

    def shown() -> bool:
        world.ok("screenshot", "browser", str(picture))
        return share_of(picture, COLOR) > 0.6

    wait_until(shown, 300)
    sizes = {
        row["name"]: row["size_bytes"] for row in __import__("json").loads(world.ok("image", "ls", "--json"))["images"]
    }
    assert sizes["base"] <= 60e6 and sizes["term"] <= 6e6 and sizes["firefox"] <= 170e6
    # The browser's own sandbox needs user namespaces, and gets them.
    assert world.call("run", "browser", "--", "unshare", "--user", "true").code == 0
