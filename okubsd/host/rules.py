"""Change the rules of a VM: in the description, and at once where it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from okubsd.config.description import parse_description
from okubsd.config.edit import add_rule, remove_rule, rename_vm
from okubsd.config.flow import is_name, render_flow
from okubsd.errors import Problem
from okubsd.guest.ssh import remote_command
from okubsd.host import apply as applying
from okubsd.host import door, facts, gateway, lifecycle, locks, vmd
from okubsd.host.lifecycle import Site
from okubsd.host.places import Places
from okubsd.host.reading import drop_ins_of, read_trusted
from okubsd.host.system import System
from okubsd.host.tunnels import read_secrets
from okubsd.model import Flow, Vm, Way, Wish
from okubsd.network import user
from okubsd.plan.compile import compile_rules
from okubsd.plan.facts import HostFacts, VmFacts
from okubsd.plan.start import follower_argv, is_ruled, namespace_rules, refuse_unruled

Report = Callable[[str], None]


def file_of(wish: Wish, vm: Vm) -> tuple[Path, str | None]:
    """Return the file that describes ``vm``, and its name there: None in a file of one VM only."""
    drop_in = wish.path.parent / "vm.d" / f"{vm.name}.yaml"
    return (drop_in, None) if drop_in.is_file() else (wish.path, vm.name)


def change(places: Places, site: Site, vm: Vm, edit: Callable[[str, str | None], str]) -> Site:
    """Edit the description by ``edit`` (text and name to text), and return it as it is then.

    Nothing is written unless the new text is a description in which nothing but the rules of ``vm`` changed.
    Raises Problem or BadDescription.
    """
    path, name = file_of(site.wish, vm)
    _refuse_sample(places, path)
    door.make_private(places.state)
    with locks.locked(places.state / "description.lock"):
        old = read_trusted(path)
        text = edit(old, name)
        wish = _parse(site, path, text)
        _compare(site.wish, wish, vm)
        _write(path, text)
    return Site(wish, site.recipes)


def rename(places: Places, site: Site, vm: Vm, new: str) -> None:
    """Call ``vm`` by the name ``new`` in the description.  Raises Problem or BadDescription where that cannot be."""
    path, name = file_of(site.wish, vm)
    _refuse_sample(places, path)
    with locks.locked(places.state / "description.lock"):
        if name is None:
            target = path.with_name(f"{new}.yaml")
            if target.exists():
                raise Problem(f"{target} is there already", "choose another name")
            _parse(site, path, read_trusted(path), called=target)
            path.rename(target)
            return
        text = rename_vm(read_trusted(path), vm.name, new)
        wish = _parse(site, path, text)
        if {other.name for other in wish.vms} != {other.name for other in site.wish.vms} - {vm.name} | {new}:
            raise Problem(f"'{vm.name}' cannot be renamed without changing more", "edit the description by hand")
        _write(path, text)


def forget(places: Places, site: Site, vm: Vm, edit: Callable[[str, str], str]) -> None:
    """Take ``vm`` out of the description.  Raises Problem or BadDescription where that cannot be."""
    path, name = file_of(site.wish, vm)
    _refuse_sample(places, path)
    with locks.locked(places.state / "description.lock"):
        if name is None:
            _parse(site, path, None)
            path.unlink()
            return
        text = edit(read_trusted(path), vm.name)
        wish = _parse(site, path, text)
        if {other.name for other in wish.vms} != {other.name for other in site.wish.vms} - {vm.name}:
            raise Problem(f"'{vm.name}' cannot be taken out without changing more", "edit the description by hand")
        _write(path, text)


def _refuse_sample(places: Places, path: Path) -> None:
    if path.is_relative_to(places.share):
        config = "~/.config/okubsd/okubsd.yaml"
        raise Problem(
            f"{path} is the sample that came with okubsd", f"install -D -m 0644 {path} {config}, and change that"
        )


def _write(path: Path, text: str) -> None:
    """Write a description; whoever edits it, it stays whose it was, and a link to it stays one."""
    real = path.resolve()
    status = real.stat()
    owner = (status.st_uid, status.st_gid) if facts.is_root() else None
    door.write(real, text.encode(), status.st_mode & 0o777, owner=owner)


def _parse(site: Site, path: Path, text: str | None, called: Path | None = None) -> Wish:
    """Return the description with ``text`` in the place of the file ``path``, None for no such drop-in.

    ``called`` is the name that the file is to have.  Raises BadDescription where that would be none.
    """
    main = site.wish.path
    texts = [
        (called or drop_in if drop_in == path else drop_in, text if drop_in == path else read_trusted(drop_in))
        for drop_in in drop_ins_of(main)
    ]
    there = [(drop_in, own) for drop_in, own in texts if own is not None]
    return parse_description(
        main, text if path == main and text is not None else read_trusted(main), there, site.recipes
    )


def _compare(before: Wish, after: Wish, vm: Vm) -> None:
    """Raise Problem where more than the rules of ``vm`` differs."""

    def bare(wish: Wish) -> object:
        vms = [msgspec.structs.replace(v, flows=() if v.name == vm.name else _unplaced(v.flows)) for v in wish.vms]
        return vms, wish.host, wish.networks

    if bare(before) != bare(after):
        raise Problem(f"the description of '{vm.name}' cannot be changed without changing more", "edit it by hand")


def _unplaced(flows: tuple[Flow, ...]) -> tuple[Flow, ...]:
    """Return ``flows`` without their lines, which an edit above them moves."""
    return tuple(msgspec.structs.replace(flow, line=0) for flow in flows)


def add(places: Places, site: Site, vm: Vm, key: str, element: str) -> Site:
    """Put a rule, as a YAML ``element``, below ``key`` (allow or deny) of ``vm``."""
    return change(places, site, vm, lambda text, name: add_rule(text, name, key, element))


def remove(places: Places, site: Site, vm: Vm, flow: Flow) -> Site:
    """Take a rule out.  Raises Problem where it is none of those in the VM's own lists."""
    key = "allow" if flow.allow else "deny"
    own = [found for found in vm.flows if found.allow == flow.allow]
    # The rules of a preset come after those of the lists, and are not in them.
    index = next((i for i, found in enumerate(own) if same(found, flow)), None)
    if index is None:
        known = ", ".join(f"'{render_flow(found)}'" for found in vm.flows) or "none"
        raise Problem(f"VM '{vm.name}' has no rule '{render_flow(flow)}', it has {known}", f"okubsd net show {vm.name}")
    return change(places, site, vm, lambda text, name: remove_rule(text, name, key, index))


def same(one: Flow, other: Flow) -> bool:
    """Return whether two rules say the same of the same packets."""
    return (one.allow, one.target, one.ports, one.protocol) == (other.allow, other.target, other.ports, other.protocol)


def put_in_force(places: Places, site: Site, vm: Vm) -> str:
    """Give the rules of ``vm`` to what holds them, if it runs; return what came of it, as a sentence."""
    state = facts.ask_vm(places, vm.name)
    if vmd.has_vmd():
        return _apply_on_openbsd(places, site, vm)
    if not state.running:
        return "it takes effect when the VM starts"
    through = gateway.find_gateway(vm, site.wish)
    if through is not None:
        return _push_to_gateway(places, site, through)
    if vm.network.way is not Way.NAT:
        return f"nothing leaves the network '{vm.network.name}', so it changes nothing"
    host = facts.ask_host(places, booting=True)
    refuse_unruled(vm, host, confined=state.confined)
    _load(vm, state, host)
    return "it is in force"


def refuse_host(places: Places, vm: Vm) -> None:
    """Refuse the addresses that this host has now to a running ``vm``, as its start did with those of then."""
    state = facts.ask_vm(places, vm.name)
    if not state.confined or vm.network.way is not Way.NAT:
        return
    host = facts.ask_host(places, booting=True)
    lines = "".join(f"route replace prohibit {address}\n" for address in host.addresses)
    argv = user.enter_argv(str(state.qemu_pid), ("ip", "-force", "-batch", "-"), root=host.root)
    door.run(argv, data=lines.encode(), timeout=10)
    if is_ruled(vm):
        _load(vm, state, host)


def _apply_on_openbsd(places: Places, site: Site, vm: Vm) -> str:
    """Put the rules of one VM in force by pf(4), which is root's; where it goes through a gateway, by that."""
    through = gateway.find_gateway(vm, site.wish)
    if through is not None:
        return _push_to_gateway(places, site, through)
    if not facts.is_root():
        return "it takes effect with: doas okubsd apply"
    system = System(places.system)
    secrets = read_secrets(site.wish)
    files = compile_rules(site.wish, vm.name, applying.kept_numbers(system), secrets, time.time())
    applying.apply_rules(system, vm.name, files, lambda line: None)
    return "it is in force"


def _push_to_gateway(places: Places, site: Site, through: Vm) -> str:
    def root_ssh(command: str) -> tuple[str, ...]:
        return (*lifecycle.shared_ssh(places, through, "-T", user="root"), remote_command(("sh", "-c", command)))

    if gateway.push_rules(places, through, site.wish, site.recipes[through.image], root_ssh):
        return f"it is in force in {through.name}"
    return f"its gateway {through.name} does not run; it takes effect when that starts"


def _load(vm: Vm, state: VmFacts, host: HostFacts) -> None:
    """Load the rules of a running VM into its network namespace, and have its names looked up."""
    rules, names = namespace_rules(vm, host)
    rules += _known_addresses(state.run, names, host)

    def inside(*argv: str) -> tuple[str, ...]:
        return user.enter_argv(str(state.qemu_pid), argv, root=host.root)

    done = door.run(inside("nft", "-f", "-"), data=rules.encode(), timeout=10)
    if done.code != 0:
        raise Problem(f"{vm.name}: its new rules were not taken: {door.reason(done)}")
    # What its rules say of private networks is in them now, and no more in the routes.
    lines = "".join(f"route del prohibit {network}\n" for network in user.REFUSED)
    door.run(inside("ip", "-force", "-batch", "-"), data=lines.encode(), timeout=10)
    follow_names(state.run, names, inside(*follower_argv(vm, host, state.run)))


def _known_addresses(run: Path, names: str, host: HostFacts) -> str:
    """Return what fills the sets of those ``names`` whose addresses are known, in the transaction that makes them."""
    if not names:
        return ""
    argv = ("sh", str(host.names_program), "/dev/stdin", "known", str(run / "names.state"))
    return door.must(argv, "reading what is known of host names", timeout=10, data=names.encode()).out.decode()


def follow_names(run: Path, names: str, argv: tuple[str, ...]) -> None:
    """Have the host names in ``names`` looked up from now on, and no others.

    Whoever does that already finds the new file by himself.
    """
    life = run / "names.life"
    door.write(run / "names", names.encode(), lasting=False)
    if names and not locks.is_alive(life):
        door.spawn(argv, run / "names.log", life=life)


def proxy_state(places: Places, site: Site, vm: Vm) -> str | None:
    """Return the line that the proxy on the way of a running ``vm`` says of itself, None where there is no proxy.

    It is a guest's word, and may hold anything.
    """
    recipe = site.recipes.get(vm.image)
    asked = vm if recipe and recipe.gateway else gateway.find_gateway(vm, site.wish)
    recipe = site.recipes.get(asked.image) if asked else None
    if asked is None or recipe is None or recipe.proxy is None or not facts.ask_vm(places, asked.name).running:
        return None
    with contextlib.suppress(Problem):
        argv = (*lifecycle.shared_ssh(places, asked, "-T", user="root"), "head -c 200 /run/okubsd/proxy")
        return door.ask(argv, timeout=10).out.decode(errors="replace").partition("\n")[0] or None
    return None


def names_state(places: Places, site: Site, vm: Vm) -> list[str]:
    """Return a sentence for each host name in the rules of a running ``vm``: its addresses, or why it has none."""
    if not any(is_name(flow) for flow in vm.flows):
        return []
    through = gateway.find_gateway(vm, site.wish)
    if through is None:
        with contextlib.suppress(OSError):
            return parse_names((places.vm_run(vm.name) / "names.state").read_text())
        return []
    with contextlib.suppress(Problem):
        argv = (*lifecycle.shared_ssh(places, through, "-T", user="root"), "cat /run/okubsd/gateway/names.state")
        done = door.ask(argv, timeout=10)
        wanted = {flow.target for flow in vm.flows}
        return [line for line in parse_names(done.out.decode(errors="replace")) if line.split(":")[0] in wanted]
    return []


# What is said of a name without an address.
NOTHING = ", so its rule does nothing"


def parse_names(text: str) -> list[str]:
    """Return the lines of a file that the program `names` wrote, as sentences."""
    found = []
    for line in text.splitlines()[:1000]:
        name, _, rest = line.partition(" ")
        _, _, known = rest.partition(" ")
        addresses = " ".join(word for word in known.split() if not word.strip("0123456789."))
        reason = known.removeprefix("- ") if known.startswith("- ") else "was not asked yet"
        found.append(f"{name}: {addresses}" if addresses else f"{name}: {reason}{NOTHING}")
    return found
