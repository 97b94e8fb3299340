"""The site's own pf.conf: what okubsd does not know of it is pfctl's to judge; its own block is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okubsd.config.marked import BEGIN, END, with_block
from okubsd.config.parse_y import ConfError
from okubsd.hostfile import FileState
from okubsd.pf.site import defeats, parse_site
from okubsd.plan.judge import read_rules, unread_lines

# What administrators write, each line of which pf.conf(5) knows.
SITE = """\
set skip on lo
set syncookies adaptive (start 25%, end 12%)
set fingerprints "/etc/pf.os"
block return
pass
pass in on egress proto tcp to port { ssh smtp submission imaps }
pass proto ospf
pass inet6 proto ipv6-icmp
pass in proto tcp to port 22 user { root alice }
pass in quick inet proto tcp to port 21 divert-to 127.0.0.1 port 8021
block in quick proto tcp probability 20%
pass in proto tcp from any port 6000 >< 6010
include "/etc/pf.local"
load anchor spam from "/etc/pf.spam"
"""
OURS = 'anchor "okubsd/*" on okubsd\nblock return quick on okubsd\n'


def test_a_sites_own_words_are_left_to_pfctl() -> None:
    ruleset, unread = parse_site(SITE, "pf.conf")
    assert [rule.text for rule in ruleset.rules][:2] == ["block return", "pass"]
    assert 2 in unread and 14 in unread and 4 not in unread and 5 not in unread


@pytest.mark.parametrize("line", SITE.splitlines())
def test_each_line_alone_is_taken(line: str) -> None:
    parse_site(f"{line}\n", "pf.conf")


def test_our_block_is_read_whole_wherever_it_stands() -> None:
    text = with_block(SITE, OURS, before_rules=True)
    ruleset, _ = parse_site(text, "pf.conf")
    assert sum("okubsd" in rule.text for rule in ruleset.rules) == 2


def test_a_mistake_in_our_own_block_is_ours() -> None:
    text = with_block(SITE, "block return quick on on okubsd\n", before_rules=True)
    with pytest.raises(ConfError):
        parse_site(text, "pf.conf")


@pytest.mark.parametrize("skipped", ["tap", "okubsd", "{ lo tap100 }"])
def test_what_keeps_pf_from_looking_is_told(skipped: str) -> None:
    ruleset, _ = parse_site(f"set skip on {skipped}\nblock return\n", "pf.conf")
    (told,) = defeats(ruleset)
    assert "keeps pf from looking at what VMs send" in told
    assert not defeats(parse_site("set skip on lo\n", "pf.conf")[0])


def test_check_and_why_read_a_site_that_is_not_known() -> None:
    files = {"etc/pf.conf": FileState(with_block(SITE, OURS, before_rules=True), 0o600, 0, 0)}
    assert read_rules("etc/pf.conf", files).rules
    assert unread_lines(files)


@given(st.text(alphabet="abp {}()\"'\\\n!<>,=/$#0123456789.:skpts", max_size=300))
def test_any_site_is_read_or_left_to_pfctl(text: str) -> None:
    if BEGIN not in text and END not in text:
        ruleset, unread = parse_site(text, "pf.conf")
        assert len(unread) <= text.count("\n") + 1 and isinstance(ruleset.rules, tuple)


def test_the_corpus_of_pfctl_says_so_too() -> None:
    """Whatever pfctl takes, a site may have."""
    found = [*(Path(__file__).parent / "corpus/pf/accept").glob("*.conf")]
    assert len(found) >= 50
    for path in found:
        parse_site(path.read_text(), path.name)
