"""Draw who reaches what: VMs, gateways and networks, as text and as SVG (W3C, Scalable Vector Graphics 1.1)."""

from __future__ import annotations

import html
from collections.abc import Iterable
from itertools import pairwise

import msgspec

from okubsd.config.rule import render_rule
from okubsd.model import Description, NetworkKind, Vm

WORLD = "the Internet"

# Sizes in the picture's own units.
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 190, 44, 90, 44, 24

# Rules stand below their VM, as many lines of as many letters.
_LINES, _LETTERS = 2, 34

_FILL = {
    "red": "#f3b0ad", "orange": "#f6cf9d", "yellow": "#f4e9a0", "green": "#b6dfb0", "blue": "#b0cdf0",
    "purple": "#d6bdf0", "grey": "#dddddd", "black": "#a8a8a8",
}  # fmt: skip


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in the picture: its name, what is said of it, its rules, its column from the left, and its colour."""

    name: str
    words: str = ""
    rules: tuple[str, ...] = ()
    column: int = 0
    color: str = "#ffffff"
    of_vm: bool = True


class Arrow(msgspec.Struct, frozen=True):
    """What goes from one box to another, by their names, and on what terms."""

    source: str
    target: str
    words: str = ""


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """The whole picture."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def hops_of(vm: Vm, description: Description) -> tuple[str, ...]:
    """Return what the packets of ``vm`` go through, the last being the world; () where they go nowhere."""
    network = vm.network
    # What a gateway passes on goes into its tunnel, and that to where its own network leads.
    inside = (f"tunnel of {vm.name}",) if vm.tunnel else ()
    match network.kind:
        case NetworkKind.NONE:
            return ()
        case NetworkKind.NAT:
            return (*inside, WORLD)
        case NetworkKind.SWITCH:
            return (f"switch {network.name}",)
        case NetworkKind.GATEWAY:
            gateway = description.find(network.gateway)
            return (*inside, network.gateway, *(hops_of(gateway, description) if gateway else ()))
        case _:
            return (*inside, f"tunnel {network.name}", WORLD)


def draw(description: Description) -> Graph:
    """Return the picture of ``description``: each VM, left of all that its packets go through."""
    paths = {vm.name: (vm.name, *hops_of(vm, description)) for vm in description.vms}
    depth = max((len(path) for path in paths.values()), default=1)
    columns: dict[str, int] = {WORLD: depth - 1}
    for path in sorted(paths.values(), key=len, reverse=True):
        last = depth - 1 if path[-1] == WORLD else len(path) - 1
        for distance, name in enumerate(reversed(path)):
            columns.setdefault(name, last - distance)
    vms = {vm.name: vm for vm in description.vms}
    boxes = tuple(_box(name, vms.get(name), column) for name, column in columns.items())
    arrows = dict.fromkeys(pair for path in paths.values() for pair in pairwise(path))
    return Graph(
        boxes=tuple(box for box in boxes if box.of_vm or any(box.name in pair for pair in arrows)),
        arrows=tuple(Arrow(source, target, _terms(vms.get(source))) for source, target in arrows),
    )


def _box(name: str, vm: Vm | None, column: int) -> Box:
    if vm is None:
        return Box(name=name, column=column, of_vm=False)
    words = vm.image if vm.network.kind is not NetworkKind.NONE else f"{vm.image}, no network"
    rules = tuple(rules_in_words(vm))
    return Box(name=name, words=words, rules=rules, column=column, color=_FILL.get(vm.color, "#ffffff"))


def _terms(vm: Vm | None) -> str:
    """Return the rules of a VM in a few words."""
    if vm is None or not vm.rules:
        return ""
    first = "; ".join(f"{'allow' if rule.allow else 'deny'} {render_rule(rule)}" for rule in vm.rules[:2])
    return f"{first}; {len(vm.rules) - 2} more" if len(vm.rules) > 2 else first


def render_text(description: Description) -> str:
    """Return a line for each VM with all that its packets go through, and a line for each of its rules."""
    lines: list[str] = []
    for vm in description.vms:
        path = (vm.name, *hops_of(vm, description))
        lines.append(" -> ".join(path) if len(path) > 1 else f"{vm.name} (no network)")
        lines += [f"    {rule}" for rule in rules_in_words(vm)]
    return "".join(f"{line}\n" for line in lines)


def rules_in_words(vm: Vm) -> Iterable[str]:
    """Yield the rules of ``vm`` as they are written, and its limits."""
    for rule in vm.rules:
        yield f"{'allow' if rule.allow else 'deny'} {render_rule(rule)}" + (
            f"  # {rule.comment}" if rule.comment else ""
        )
    for word, bits in (("receives", vm.bandwidth.down), ("sends", vm.bandwidth.up)):
        if bits:
            yield f"{word} at most {bits // 1000} kbit/s"


def render_svg(graph: Graph) -> str:
    """Return the picture as SVG."""
    places: dict[str, tuple[int, int]] = {}
    rows: dict[int, int] = {}
    for box in graph.boxes:
        row = rows.get(box.column, 0)
        rows[box.column] = row + 1
        places[box.name] = (_MARGIN + box.column * (_WIDTH + _ACROSS), _MARGIN + row * (_HEIGHT + _DOWN))
    width = 2 * _MARGIN + (max(rows, default=0) + 1) * (_WIDTH + _ACROSS) - _ACROSS
    height = 2 * _MARGIN + max(rows.values(), default=1) * (_HEIGHT + _DOWN) - _DOWN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="13">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#444"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *(_arrow(arrow, places) for arrow in graph.arrows),
        *(_drawn(box, places[box.name]) for box in graph.boxes),
        "</svg>",
    ]
    return "".join(f"{line}\n" for line in lines)


def _arrow(arrow: Arrow, places: dict[str, tuple[int, int]]) -> str:
    (x, y), (to_x, to_y) = places[arrow.source], places[arrow.target]
    x, y, to_y = x + _WIDTH, y + _HEIGHT // 2, to_y + _HEIGHT // 2
    middle = (x + to_x) // 2
    title = f"<title>{html.escape(arrow.words)}</title>" if arrow.words else ""
    dash = ' stroke-dasharray="5 3"' if arrow.words else ""
    path = f"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}"
    return f'<path d="{path}" fill="none" stroke="#444"{dash} marker-end="url(#end)">{title}</path>'


def _drawn(box: Box, place: tuple[int, int]) -> str:
    x, y = place
    round_ = 6 if box.of_vm else 20
    centre = x + _WIDTH // 2
    down = 19 if box.words else 27
    small = f'<text x="{centre}" y="{y + 35}" text-anchor="middle" fill="#333" font-size="11">'
    words = f"{small}{html.escape(box.words)}</text>"
    return (
        f'<g><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="{round_}" fill="{box.color}" stroke="#444"/>'
        f'<text x="{centre}" y="{y + down}" text-anchor="middle" font-weight="bold">{html.escape(box.name)}</text>'
        f"{words if box.words else ''}{_notes(box, x, y + _HEIGHT)}</g>"
    )


def _notes(box: Box, x: int, y: int) -> str:
    """Return the first rules of a VM as lines below its box, and all of them for a pointer that rests there."""
    if not box.rules:
        return ""
    shown = [rule if len(rule) <= _LETTERS else f"{rule[: _LETTERS - 1]}…" for rule in box.rules[:_LINES]]
    if len(box.rules) > _LINES:
        shown[-1] = f"and {len(box.rules) - _LINES + 1} more"
    lines = (
        f'<text x="{x + 4}" y="{y + 13 + 13 * row}" fill="#333" font-size="10">{html.escape(line)}</text>'
        for row, line in enumerate(shown)
    )
    everything = html.escape("\n".join(box.rules))
    return f"{''.join(lines)}<title>{everything}</title>"
