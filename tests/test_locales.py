"""Languages of guests: whose they are, and what of an image has their words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from okubsd.config.locales import directories_of, host_locale, packages_of, with_locales
from okubsd.config.recipe import parse_recipe
from okubsd.errors import BadDescription
from okubsd.host.trying import as_built
from okubsd.images.commands import bootstrap_argv, locale_hook, words_hook
from okubsd.model import Image, Kind, Vm
from okubsd.plan.images import stale_images
from okubsd.recipe import Recipe, Translations

WORDS = Translations("fox-l10n-{}", ("de", "es-es", "es-mx", "pt-br", "pt-pt", "ru", "nb-no"))


@pytest.mark.parametrize(
    ("environment", "locale"),
    [
        ({}, "C"),
        ({"LANG": "pt_BR.UTF-8"}, "pt_BR"),
        ({"LANG": "de_DE@euro"}, "de_DE"),
        ({"LANG": "ru_RU.KOI8-R", "LC_ALL": "C"}, "C"),
        ({"LANG": "C", "LC_MESSAGES": "ru_RU.UTF-8"}, "ru_RU"),
        ({"LANG": "en_US.UTF-8"}, "C"),
        ({"LANG": "../../etc/passwd"}, "C"),
        ({"LANG": "pt_BR; id"}, "C"),
    ],
)
def test_the_language_of_the_host_is_that_of_its_environment(environment: dict[str, str], locale: str) -> None:
    assert host_locale(environment) == locale


@pytest.mark.parametrize(
    ("locale", "package"),
    [("pt_BR", "pt-br"), ("ru_RU", "ru"), ("de_AT", "de"), ("es_MX", "es-mx"), ("es_PE", "es-es"), ("nb_NO", "nb-no")],
)
def test_the_words_of_a_language_are_those_of_its_territory_or_the_nearest(locale: str, package: str) -> None:
    assert packages_of(WORDS, (locale,)) == (f"fox-l10n-{package}",)


def test_what_has_no_words_has_none_and_one_package_may_have_all() -> None:
    assert packages_of(WORDS, ("ja_JP",)) == packages_of(None, ("ja_JP",)) == packages_of(Translations("all"), ()) == ()
    assert packages_of(Translations("all"), ("ja_JP", "ru_RU")) == ("all",)
    assert directories_of("pt_BR") == ("pt_BR", "pt")


def recipe(**keys: object) -> Recipe:
    return Recipe(name="fox", kind=Kind.APP, base="base", digest="d", packages=("fox",), **keys)  # type: ignore[arg-type]


def image(*locales: str) -> Image:
    return Image(name="fox", kind=Kind.APP, build="b", recipe="d", base="base", built=0, parts=(), locales=locales)


def test_an_image_has_the_languages_of_all_its_vms_and_one_that_has_more_is_as_good() -> None:
    vms = [Vm(name=name, image="fox", locale=locale) for name, locale in (("a", "ru_RU"), ("b", "pt_BR"), ("c", "C"))]
    (asked,) = with_locales({"fox": recipe(), "other": recipe()}, vms).values()
    assert asked.locales == ("pt_BR", "ru_RU")
    for built, stale in (
        ((), True),
        (("ru_RU",), True),
        (("pt_BR", "ru_RU"), False),
        (("de_DE", "pt_BR", "ru_RU"), False),
    ):
        assert bool(stale_images(("fox",), {"fox": asked}, {"fox": image(*built)})) == stale
    assert not stale_images(("fox",), {"fox": recipe()}, {"fox": image("de_DE")})


def test_a_build_makes_the_locales_that_are_asked_for_and_no_other() -> None:
    def argv(made: Recipe) -> tuple[str, ...]:
        return bootstrap_argv(made, "bookworm", Path("/sources"), (), Path("/tar"), root=True)

    plain = argv(recipe(translations=WORDS))
    assert not any("locale" in word for word in plain if word != "--dpkgopt=path-exclude=/usr/share/locale/*")
    asked = argv(msgspec.structs.replace(recipe(translations=WORDS), locales=("pt_BR",)))
    words = set(asked) - set(plain)
    assert words == {
        f"--setup-hook={words_hook(('pt_BR', 'pt'))}",
        "--include=locales",
        "--include=fox-l10n-pt-br",
        f"--customize-hook={locale_hook('pt_BR')}",
    }
    assert "path-include=/usr/share/locale/pt/*" in words_hook(("pt",))


@pytest.mark.parametrize(
    "text",
    [
        "{package: 'x-{}'}",
        "{package: x, of: [de]}",
        "{package: 'X {}', of: [de]}",
        "{package: 'x-{}', of: ['De']}",
        "x",
    ],
)
def test_translations_of_a_recipe_that_mean_nothing_are_told(text: str) -> None:
    with pytest.raises(BadDescription, match="translations"):
        parse_recipe("fox", Path("r.yaml"), f"from: base\napps: {{fox: [fox]}}\ntranslations: {text}\n")


def test_a_trial_builds_nothing_for_a_language_that_was_asked_for_later() -> None:
    asked = recipe(locales=("pt_BR", "ru_RU"))
    assert stale_images(("fox",), {"fox": asked}, {"fox": image("pt_BR")}) == ("fox",)
    tried = as_built({"fox": asked}, [image("pt_BR")])
    assert stale_images(("fox",), tried, {"fox": image("pt_BR")}) == ()
