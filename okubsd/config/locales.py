"""Languages of guests: that of the host, and the packages that have the words of one (locale(7), setlocale(3))."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import msgspec

from okubsd.model import Vm
from okubsd.recipe import Recipe, Translations

# What programs speak without any words of their own, or is as good as that.
NONE = "C"
_ENGLISH = frozenset({"C", "POSIX", "en_US"})
_NAME = re.compile(r"([a-z]{2,3}_[A-Z]{2})(?:\.[A-Za-z0-9-]+)?(?:@[a-z]+)?")


def host_locale(environment: Mapping[str, str]) -> str:
    """Return the language and territory of the user, such as pt_BR; NONE for English and for what is no locale."""
    named = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(name))), NONE)
    match = _NAME.fullmatch(named)
    return match[1] if match and match[1] not in _ENGLISH else NONE


def packages_of(translations: Translations | None, locales: Collection[str]) -> tuple[str, ...]:
    """Return the packages that have the words of ``locales``, as far as there are any."""
    if translations is None or not locales:
        return ()
    if "{}" not in translations.package:
        return (translations.package,)
    found = (_suffix(translations.of, locale) for locale in locales)
    return tuple(dict.fromkeys(translations.package.replace("{}", suffix) for suffix in found if suffix))


def _suffix(known: tuple[str, ...], locale: str) -> str:
    """Return which of ``known`` is for a locale: its territory's own, its language's, or any of that language."""
    language, _, territory = locale.lower().partition("_")
    wanted = (f"{language}-{territory}", language)
    others = (suffix for suffix in known if suffix.startswith(f"{language}-"))
    return next((suffix for suffix in (*wanted, *others) if suffix in known), "")


def directories_of(locale: str) -> tuple[str, ...]:
    """Return the names below /usr/share/locale where a package has the words of ``locale`` (gettext)."""
    return (locale, locale.partition("_")[0])


def with_locales(recipes: Mapping[str, Recipe], vms: Iterable[Vm]) -> dict[str, Recipe]:
    """Return those of ``recipes`` whose images need words for ``vms``, with the locales that these have."""
    wanted: dict[str, set[str]] = {}
    for vm in vms:
        if vm.locale not in ("", NONE) and vm.image in recipes and not recipes[vm.image].container:
            wanted.setdefault(vm.image, set()).add(vm.locale)
    return {
        name: msgspec.structs.replace(recipes[name], locales=tuple(sorted(locales))) for name, locales in wanted.items()
    }
