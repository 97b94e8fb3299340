"""What windows of a guest say of themselves, each read to a bound; and what the nested display says to them."""

from __future__ import annotations

from typing import Any

from Xlib import X, Xatom, Xutil
from Xlib.protocol.event import ClientMessage

from okubsd.display.letters import Letters, render_resources, render_settings
from okubsd.display.words import TEXT

NAMES = (
    *("WM_STATE", "WM_PROTOCOLS", "WM_DELETE_WINDOW", "WM_TAKE_FOCUS", "WM_CHANGE_STATE", "UTF8_STRING"),
    *("_NET_SUPPORTING_WM_CHECK", "_NET_SUPPORTED", "_NET_WM_NAME", "_NET_WM_STATE", "_NET_WM_STATE_FULLSCREEN"),
    *("_NET_WM_STATE_MAXIMIZED_VERT", "_NET_WM_STATE_MAXIMIZED_HORZ", "_NET_WM_MOVERESIZE", "_NET_ACTIVE_WINDOW"),
    *("_NET_WORKAREA", "_NET_CURRENT_DESKTOP", "_NET_NUMBER_OF_DESKTOPS", "_XSETTINGS_S0", "_XSETTINGS_SETTINGS"),
    *("_NET_SYSTEM_TRAY_S0", "_NET_SYSTEM_TRAY_OPCODE", "MANAGER", "_XEMBED"),
)
# Of a list of protocols this many count.
_MOST_PROTOCOLS = 32


def announce(root: Any, atoms: dict[str, int]) -> None:
    """Say that there is a window manager, and what it does (EWMH)."""
    check = root.create_window(-1, -1, 1, 1, 0, X.CopyFromParent, override_redirect=1)
    check.change_property(atoms["_NET_WM_NAME"], atoms["UTF8_STRING"], 8, b"okubsd")
    for window in (root, check):
        window.change_property(atoms["_NET_SUPPORTING_WM_CHECK"], Xatom.WINDOW, 32, [check.id])
    supported = [atom for name, atom in atoms.items() if name.startswith("_NET")]
    root.change_property(atoms["_NET_SUPPORTED"], Xatom.ATOM, 32, supported)
    root.change_property(atoms["_NET_NUMBER_OF_DESKTOPS"], Xatom.CARDINAL, 32, [1])
    root.change_property(atoms["_NET_CURRENT_DESKTOP"], Xatom.CARDINAL, 32, [0])
    size = root.get_geometry()
    root.change_property(atoms["_NET_WORKAREA"], Xatom.CARDINAL, 32, [0, 0, size.width, size.height])


def announce_letters(display: Any, letters: Letters, atoms: dict[str, int]) -> None:
    """Say how letters are drawn: to xterm and Qt by resources, to GTK and browsers by settings (XSETTINGS)."""
    root = display.screen().root
    root.change_property(Xatom.RESOURCE_MANAGER, Xatom.STRING, 8, render_resources(letters).encode())
    owner = root.create_window(-1, -1, 1, 1, 0, X.CopyFromParent, override_redirect=1)
    settings = atoms["_XSETTINGS_SETTINGS"]
    owner.change_property(settings, settings, 8, render_settings(letters))
    owner.set_selection_owner(atoms["_XSETTINGS_S0"], X.CurrentTime)


def announce_tray(display: Any, atoms: dict[str, int]) -> Any:
    """Take in the icons of programs, and return the window that these speak to (System Tray 0.4)."""
    root = display.screen().root
    owner = root.create_window(-1, -1, 1, 1, 0, X.CopyFromParent, override_redirect=1)
    owner.set_selection_owner(atoms["_NET_SYSTEM_TRAY_S0"], X.CurrentTime)
    data = (32, [X.CurrentTime, atoms["_NET_SYSTEM_TRAY_S0"], owner.id, 0, 0])
    root.send_event(ClientMessage(window=root, client_type=atoms["MANAGER"], data=data), X.StructureNotifyMask)
    return owner


def embed(window: Any, tray: Any, atoms: dict[str, int]) -> None:
    """Tell a program that its icon is in the ``tray`` (XEMBED, XEMBED_EMBEDDED_NOTIFY)."""
    data = (32, [X.CurrentTime, 0, 0, tray.id, 0])
    window.send_event(ClientMessage(window=window, client_type=atoms["_XEMBED"], data=data))


def end_manager(display: Any, atoms: dict[str, int]) -> None:
    """End the window manager of ``display`` that says of itself that it is one, where there is such a one (EWMH)."""
    found = display.screen().root.get_property(atoms["_NET_SUPPORTING_WM_CHECK"], Xatom.WINDOW, 0, 1)
    if found is not None and found.format == 32 and len(found.value) == 1:
        display.create_resource_object("window", found.value[0]).kill_client()


def _text(window: Any, atom: int) -> str:
    """Return the beginning of a property; no more of it is asked for."""
    found = window.get_property(atom, X.AnyPropertyType, 0, TEXT // 4)
    if found is None or found.format != 8:
        return ""
    data = bytes(found.value)
    return data.decode("latin-1" if found.property_type == Xatom.STRING else "utf-8", errors="replace")


def title(window: Any, atoms: dict[str, int]) -> str:
    """Return what ``window`` is called."""
    return _text(window, atoms["_NET_WM_NAME"]) or _text(window, Xatom.WM_NAME)


def class_name(window: Any) -> str:
    """Return the class of ``window`` (ICCCM, WM_CLASS)."""
    instance, _, rest = _text(window, Xatom.WM_CLASS).partition("\0")
    return rest.partition("\0")[0] or instance


def size_numbers(window: Any) -> tuple[int, ...] | None:
    """Return least, most, step and base size, 0 where it gave none; None without hints (ICCCM, WM_NORMAL_HINTS)."""
    hints = window.get_wm_normal_hints()
    if hints is None:
        return None
    flags, none = hints.flags, (0, 0)
    least = (hints.min_width, hints.min_height) if flags & Xutil.PMinSize else none
    most = (hints.max_width, hints.max_height) if flags & Xutil.PMaxSize else none
    step = (hints.width_inc, hints.height_inc) if flags & Xutil.PResizeInc else none
    base = (hints.base_width, hints.base_height) if flags & Xutil.PBaseSize else none
    return (*least, *most, *step, *base)


def is_urgent(window: Any) -> bool:
    """Return whether ``window`` asks for attention (ICCCM, WM_HINTS)."""
    hints = window.get_wm_hints()
    return hints is not None and bool(hints.flags & Xutil.UrgencyHint)


def owner_of(window: Any) -> int:
    """Return the window that ``window`` is a dialog of, 0 for none (ICCCM, WM_TRANSIENT_FOR)."""
    owner = window.get_wm_transient_for()
    return int(owner.id) if owner is not None else 0


def protocols(window: Any) -> set[int]:
    """Return the protocols that ``window`` takes part in (ICCCM, WM_PROTOCOLS)."""
    return set(window.get_wm_protocols()[:_MOST_PROTOCOLS])


# Of these events the last of a window counts.
_IDLE = (
    *("PropertyNotify", "ConfigureNotify", "ConfigureRequest", "MapRequest", "MapNotify", "UnmapNotify"),
    "ClientMessage",
)


def _meant(event: Any) -> tuple[int, ...]:
    """Return what a client message is about, () for other events: its type and the states that it names."""
    if type(event).__name__ != "ClientMessage":
        return ()
    return (event.client_type, *(event.data[1][1:3] if event.data[0] == 32 else ()))


def thin(queue: list[Any]) -> list[Any]:
    """Return the events of ``queue`` without those that a later one of the same kind and window makes idle."""
    last: dict[tuple[object, ...], int] = {}
    for number, event in enumerate(queue):
        if type(event).__name__ in _IDLE:
            last[(type(event), event.window.id, getattr(event, "atom", 0), _meant(event))] = number
    kept = set(last.values())
    return [event for number, event in enumerate(queue) if type(event).__name__ not in _IDLE or number in kept]
