"""rc.d/okubsd under real Korn shells, on a stand-in for rc.subr(8)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.openbsd.test_helper import SHELLS
from tests.openbsd.world import World, twin

pytestmark = pytest.mark.spawns

HERE = Path(__file__).parent

# okubsd for the script: it writes down how it was called, and what it starts runs for vmctl from then on.
FAKE_OKUBSD = """#!/bin/sh
echo "${SIM_USER} $*" >>"$SIM_ROOT/calls"
case " $* " in
*" fails "*) [ "$2" = start ] && exit 1 ;;
esac
shift
case $1 in
start) touch "$SIM_ROOT/up-$3" ;;
stop) rm -f "$SIM_ROOT/up-$2" ;;
esac
exit 0
"""
FAKE_VMCTL = """#!/bin/sh
[ "$*" = "status -r" ] || exit 99
echo "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME"
for vm in "$SIM_ROOT"/up-*; do
	[ -e "$vm" ] && [ "${vm##*/up-}" != emulated ] && echo "    1    77     1   66.0M   20.0K   ttyp0        alice  running ${vm##*/up-}"
done
exit 0
"""
FAKE_SU = """#!/bin/sh
[ "$1 $2 $3" = "-fl -s /bin/sh" ] && [ "$5" = -c ] || exit 99
SIM_USER=$4 exec sh -c "$6"
"""
FAKE_VMD_RC = (
    '#!/bin/sh\necho "vmd $*" >>"$SIM_ROOT/calls"\n[ "$1" = -f ] && touch "$SIM_ROOT/vmd"\n[ -e "$SIM_ROOT/vmd" ]\n'
)
# The only QEMU that "runs" is that of the VM `emulated`.
FAKE_PGREP = '#!/bin/sh\n[ "$*" = "-U alice -f -- -name guest=emulated " ] && [ -e "$SIM_ROOT/up-emulated" ]\n'
FAKE_INSTALL = '#!/bin/sh\nfor last; do :; done\nexec mkdir -p "$last"\n'

DESCRIPTION = """\
host: {owner: alice}
vms:
  one: {image: term, autostart: yes}
  two: {image: term, autostart: yes, owner: bob}
  other: {image: term}
  emulated: {image: term, backend: qemu}
"""


class Boot:
    """A host with the script, and what stands in for the programs it calls."""

    def __init__(self, world: World, shell: str) -> None:
        self.world, self.shell = world, shell
        self.root = world.root
        directory = self.root / "etc/rc.d"
        directory.mkdir()
        for name, text in (("bin/okubsd", FAKE_OKUBSD), ("bin/vmctl", FAKE_VMCTL), ("bin/su", FAKE_SU),
                           ("etc/rc.d/vmd", FAKE_VMD_RC), ("bin/install", FAKE_INSTALL), ("bin/pgrep", FAKE_PGREP)):  # fmt: skip
            (self.root / name).write_text(text)
            (self.root / name).chmod(0o755)
        (directory / "rc.subr").write_text((HERE / "rc.subr").read_text())
        script = (CHECKOUT / "rc.d/okubsd").read_text().replace("/usr/local/bin/okubsd", f"{self.root}/bin/okubsd")
        for top in ("/etc/", "/var/"):
            script = script.replace(f"={top}", f"={self.root}{top}").replace(f" {top}", f" {self.root}{top}")
            script = script.replace(f"\t{top}", f"\t{self.root}{top}")
        (directory / "okubsd").write_text(script)

    def __call__(self, action: str) -> tuple[int, str]:
        """Perform an action of the script; return its exit code and what it printed."""
        env = self.world.env()
        done = subprocess.run(
            [self.shell, str(self.root / "etc/rc.d/okubsd"), action], env=env, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.stderr == "", done.stderr
        return done.returncode, done.stdout.strip()

    @property
    def calls(self) -> list[str]:
        """Return the calls so far."""
        path = self.root / "calls"
        return (
            [line for line in path.read_text().splitlines() if not line.endswith("vmd check")] if path.exists() else []
        )


@pytest.fixture(params=SHELLS, ids=lambda path: Path(path).name)
def boot(request: pytest.FixtureRequest, tmp_path: Path) -> Boot:
    """A host with autostart VMs of two users, before its boot."""
    return Boot(twin(tmp_path, "/bin/mksh", World.fake_images, describe, World.lay), request.param)


def describe(world: World) -> None:
    world.write(DESCRIPTION)


def test_start_brings_up_the_autostart_vms_in_order(boot: Boot) -> None:
    assert boot("check") == (1, "okubsd(failed)")
    assert boot("start") == (0, "okubsd(ok)")
    assert boot.calls == [
        "root -q check", "vmd -f start", "root -q apply --recover",
        "alice -q start --no-app one", "bob -q start --no-app two",
    ]  # fmt: skip
    assert boot("check") == (0, "okubsd(ok)")


def test_check_tells_the_truth(boot: Boot) -> None:
    boot("start")
    for name in ("one", "two"):
        (boot.root / f"up-{name}").unlink()
    assert boot("check") == (1, "okubsd(failed)")
    boot("start")
    (boot.root / "vmd").unlink()
    assert boot("check") == (1, "okubsd(failed)")


def test_stop_powers_off_every_vm_by_its_owner(boot: Boot) -> None:
    boot("start")
    (boot.root / "up-other").touch()
    (boot.root / "up-stranger").touch()
    before = len(boot.calls)
    assert boot("stop") == (0, "okubsd(ok)")
    assert sorted(boot.calls[before:]) == ["alice -q stop one", "alice -q stop other", "bob -q stop two"]
    assert (boot.root / "up-stranger").exists(), "a VM that is not ours is left alone"
    assert boot("check") == (1, "okubsd(failed)")


def test_a_vm_of_qemus_is_stopped_too(boot: Boot) -> None:
    boot("start")
    (boot.root / "up-emulated").touch()
    before = len(boot.calls)
    boot("stop")
    assert "alice -q stop emulated" in boot.calls[before:]


def test_one_that_fails_keeps_no_other_down(boot: Boot) -> None:
    (boot.root / "etc/okubsd/autostart").write_text("alice fails\nalice one\n")
    assert boot("start") == (1, "okubsd(failed)")
    assert "alice -q start --no-app one" in boot.calls


def test_configtest_is_okubsd_check(boot: Boot) -> None:
    assert boot("configtest") == (0, "okubsd(ok)")
    assert boot.calls == ["root -q check"]
    (boot.root / "bin/okubsd").write_text("#!/bin/sh\nexit 8\n")
    assert boot("configtest") == (1, "okubsd(failed)")
    assert boot("start") == (1, "okubsd(failed)")


def test_without_autostart_it_is_up_all_the_same(boot: Boot) -> None:
    (boot.root / "etc/okubsd/autostart").write_text("")
    assert boot("start") == (0, "okubsd(ok)")
    assert boot("check") == (0, "okubsd(ok)")
    assert boot("stop") == (0, "okubsd(ok)")


def test_there_is_no_reload(boot: Boot) -> None:
    assert boot("reload")[0] == 1
