"""The description: what is taken, and every way of getting it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.description import VM_FIELDS, parse_description
from okubsd.config.names import VM_NAME, host_name, quoted
from okubsd.config.sizes import parse_size, render_size
from okubsd.errors import BadDescription
from okubsd.model import NAT, Description
from okubsd.recipe import Recipe

RECIPES = {
    "base": Recipe(name="base", kind="base"),  # type: ignore[arg-type]
    "firefox": Recipe(name="firefox", kind="app", base="base", apps={"firefox": ("firefox",)}),  # type: ignore[arg-type]
    "office": Recipe(name="office", kind="app", base="base", apps={"writer": ("w",), "calc": ("c",)}),  # type: ignore[arg-type]
}


def parse(text: str, drop_ins: tuple[tuple[Path, str], ...] = ()) -> Description:
    return parse_description(Path("okubsd.yaml"), text, drop_ins, RECIPES)


def mistakes(text: str, drop_ins: tuple[tuple[Path, str], ...] = ()) -> tuple[str, ...]:
    with pytest.raises(BadDescription) as caught:
        parse(text, drop_ins)
    return caught.value.mistakes


def vm(line: str) -> str:
    return f"vms:\n  browser:\n    image: firefox\n    {line}\n"


def test_a_vm_has_defaults() -> None:
    browser = parse("vms:\n  browser: {image: firefox}\n").vms[0]
    assert (browser.memory, browser.network, browser.keep) == (512 << 20, NAT, False)


def test_defaults_are_for_vms_that_do_not_say_otherwise() -> None:
    description = parse("defaults: {memory: 1G}\nvms:\n  a: {image: firefox}\n  b: {image: firefox, memory: 2G}\n")
    assert [vm.memory for vm in description.vms] == [1 << 30, 2 << 30]


def test_a_drop_in_is_one_vm() -> None:
    description = parse("vms: {}\n", ((Path("vm.d/work.yaml"), "image: office\napps: [calc]\n"),))
    assert [(vm.name, vm.apps) for vm in description.vms] == [("work", ("calc",))]


def test_an_empty_description_has_no_vms() -> None:
    assert parse("").vms == ()


def test_all_mistakes_are_told_at_once_each_with_its_line() -> None:
    text = (
        "vms:\n  browser:\n    image: fierfox\n  b:\n    image: office\n    memory: much\n    netwrok: nat\n  1x: {}\n"
    )
    found = mistakes(text)
    assert len(found) == 5
    assert found[0].startswith("okubsd.yaml:8: '1x' is no name")
    assert any("okubsd.yaml:6: vms.b.memory: found 'much', allowed is a size" in line for line in found)
    assert any("netwrok: unknown key" in line and "did you mean 'network'?" in line for line in found)
    assert any("vms.browser.image" in line and "did you mean 'firefox'?" in line for line in found)


BROKEN = {
    "not yaml": ("vms: [", "this is not YAML"),
    "tab": ("vms:\n\tx: 1\n", "this is not YAML"),
    "control character": ("vms: \x01\n", "this is not YAML"),
    "two documents": ("vms: {}\n---\nvms: {}\n", "this is not YAML"),
    "alias": ("vms: &a {}\ndefaults: *a\n", "aliases"),
    "bomb": ("a: &a [x]\nb: &b [*a, *a]\n", "aliases"),
    "deep": ("vms: " + "[" * 40 + "]" * 40, "nested deeper"),
    "list at the top": ("- a\n", "allowed is a mapping"),
    "scalar at the top": ("browser\n", "allowed is a mapping"),
    "unknown top key": ("vm: {}\n", "did you mean 'vms'?"),
    "vms a list": ("vms: [browser]\n", "a mapping of VM names"),
    "vm null": ("vms:\n  browser:\n", "the key 'image' is missing"),
    "vm scalar": ("vms:\n  browser: firefox\n", "a mapping of"),
    "twice": ("vms:\n  a: {image: firefox}\n  a: {image: firefox}\n", "written twice, first on line 2"),
    "twice by case": ("vms:\n  a: {image: firefox}\n  A: {image: firefox}\n", "described already"),
    "key twice": (vm("memory: 1G\n    memory: 2G"), "written twice"),
    "no image": ("vms:\n  a: {memory: 1G}\n", "the key 'image' is missing"),
    "image unknown": ("vms:\n  a: {image: nosuch}\n", "there are firefox, office"),
    "image is a base": ("vms:\n  a: {image: base}\n", "no recipe for an app image 'base'"),
    "image a path": ("vms:\n  a: {image: ../../etc}\n", "a small letter"),
    "image a list": ("vms:\n  a: {image: [firefox]}\n", "found a list"),
    "name digits": ("vms:\n  123: {image: firefox}\n", "is no name"),
    "name starts with dot": ("vms:\n  .a: {image: firefox}\n", "is no name"),
    "name with slash": ("vms:\n  a/b: {image: firefox}\n", "is no name"),
    "name with blank": ("vms:\n  a b: {image: firefox}\n", "is no name"),
    "name with quote": ("vms:\n  'a\"b': {image: firefox}\n", "is no name"),
    "name with newline": ('vms:\n  "a\\nb": {image: firefox}\n', "is no name"),
    "name with escape": ('vms:\n  "a\\e[31m": {image: firefox}\n', "is no name"),
    "name too long": (f"vms:\n  {'a' * 33}: {{image: firefox}}\n", "is no name"),
    "name empty": ("vms:\n  '': {image: firefox}\n", "plain word"),
    "name not ascii": ("vms:\n  é: {image: firefox}\n", "is no name"),
    "name reserved": ("vms:\n  all: {image: firefox}\n", "word of the command line"),
    "name a list": ("vms:\n  ? [a]\n  : {image: firefox}\n", "plain word"),
    "memory word": (vm("memory: lots"), "a size from 64M to 128G"),
    "memory fraction": (vm("memory: 1.5G"), "a size from"),
    "memory negative": (vm("memory: -1G"), "a size from"),
    "memory small": (vm("memory: 32M"), "a size from"),
    "memory large": (vm("memory: 129G"), "a size from"),
    "memory unit": (vm("memory: 1X"), "a size from"),
    "memory blank": (vm("memory: 1 G"), "a size from"),
    "memory null": (vm("memory:"), "a size from"),
    "memory a list": (vm("memory: [1G]"), "found a list"),
    "memory huge": (vm("memory: " + "9" * 40), "a size from"),
    "cpus zero": (vm("cpus: 0"), "a whole number from 1 to 8"),
    "cpus many": (vm("cpus: 99"), "a whole number"),
    "cpus fraction": (vm("cpus: 1.5"), "a whole number"),
    "network unknown": (vm("network: bridge"), "there is no network 'bridge', there are none, nat"),
    "network case": (vm("network: NAT"), "did you mean"),
    "network null": (vm("network: ~"), "the name of a network"),
    "display word": (vm("display: big"), "WIDTHxHEIGHT"),
    "display half": (vm("display: 1280"), "WIDTHxHEIGHT"),
    "display small": (vm("display: 100x100"), "from 160x160"),
    "display huge": (vm("display: 99999x99999"), "32767"),
    "apps a word": (vm("apps: firefox"), "a list of app names"),
    "apps unknown": (vm("apps: [firefx]"), "did you mean 'firefox'?"),
    "apps odd": (vm("apps: ['; rm -rf /']"), "a small letter"),
    "home small": (vm("home: 1M"), "a size from 16M"),
    "home large": (vm("home: 2T"), "a size from"),
    "color unknown": (vm("color: pink"), "red or orange"),
    "autostart word": (vm("autostart: maybe"), "yes or no"),
    "disposable number": (vm("disposable: 2"), "yes or no"),
    "keep mapping": (vm("keep: {}"), "found a mapping"),
    "timeout small": (vm("boot_timeout: 1"), "from 5 to 3600"),
    "defaults image": ("defaults: {image: firefox}\nvms: {}\n", "unknown key"),
    "defaults bad": ("defaults: {memory: x}\nvms: {}\n", "defaults.memory"),
    "unknown key": (vm("mem: 1G"), "unknown key"),
    "merge key": (vm("<<: {memory: 1G}"), "unknown key"),
    "python tag": (vm("memory: !!python/object/apply:os.system [id]"), "found a list"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_description_is_one_sentence(text: str, said: str) -> None:
    found = mistakes(text)
    assert any(said in line for line in found), found
    for line in found:
        assert line.startswith("okubsd.yaml:")
        assert "\n" not in line and line.isprintable()


def test_a_broken_drop_in_names_its_own_file() -> None:
    assert mistakes("vms: {}\n", ((Path("vm.d/w.yaml"), "image: nosuch\n"),))[0].startswith("vm.d/w.yaml:1: image")
    assert "empty" in mistakes("vms: {}\n", ((Path("vm.d/w.yaml"), ""),))[0]
    assert "is no name" in mistakes("", ((Path("vm.d/-w.yaml"), "image: firefox\n"),))[0]
    twice = mistakes("vms:\n  w: {image: firefox}\n", ((Path("vm.d/w.yaml"), "image: firefox\n"),))
    assert twice == ("vm.d/w.yaml:1: VM 'w' is described already in okubsd.yaml:2",)


@given(st.text(max_size=200))
def test_any_text_is_taken_or_refused_in_sentences(text: str) -> None:
    try:
        parse(text)
    except BadDescription as error:
        assert all(line.isprintable() for line in error.mistakes)


@given(
    st.dictionaries(
        st.sampled_from([*VM_FIELDS, "x"]), st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()))
    )
)
def test_any_vm_is_taken_or_refused_in_sentences(keys: dict[str, object]) -> None:
    try:
        description = parse(yaml.safe_dump({"vms": {"a": keys}}))
    except BadDescription as error:
        assert error.mistakes
    else:
        assert description.vms[0].image in RECIPES


@given(st.from_regex(VM_NAME, fullmatch=True))
def test_any_name_makes_a_host_name(name: str) -> None:
    host = host_name(name)
    assert host and host[0].isalpha() and host[-1] != "-" and len(host) <= 63


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_survives_rendering(size: int) -> None:
    assert parse_size(render_size(size)) == size


@given(st.text())
def test_quoted_text_is_harmless(text: str) -> None:
    found = quoted(text)
    assert found.isprintable() and len(found) <= 62 and found[0] == found[-1] == "'"
    # What can be shown is shown, where there is room for it.
    assert len(text) > 60 or not text.isprintable() or found == f"'{text}'"
