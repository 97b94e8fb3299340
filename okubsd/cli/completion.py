"""okubsd completion: words for a shell's completion; it boots nothing and asks no network."""

from __future__ import annotations

import click

from okubsd.cli.table import ROWS, names

# Commands that have verbs of their own; after those of the network comes a VM.
_VERBS = {
    "image": ("build", "ls", "rm", "path", "export", "import"),
    "net": ("ls", "show", "allow", "deny", "rm"),
    "vpn": ("ls", "test"),
}
_SHELLS = ("bash", "zsh", "fish", "ksh")


def _verbs_taking(what: str) -> str:
    return "|".join(row.name for row in ROWS if row.takes.startswith(what))


def _bash_verbs() -> str:
    lines = (f'{verb}) COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")) ;;' for verb, words in _VERBS.items())
    return "\n".join(f"\t\t{line}" for line in lines)


def _zsh_verbs() -> str:
    return "\n".join(f"\t\t{verb}) compadd -- {' '.join(words)} ;;" for verb, words in _VERBS.items())


def render_bash() -> str:
    """Return the completion for bash(1)."""
    return f"""# bash completion for okubsd: eval "$(okubsd completion bash)"
_okubsd() {{
	local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}}
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W "{" ".join(names())}" -- "$word"))
	else
		[ "$COMP_CWORD" -eq 2 ] || verb=${{verb/%net/vm}} verb=${{verb/%vpn/vm}}
		case $verb in
{_bash_verbs()}
		{_verbs_taking("vm")}|vm) COMPREPLY=($(compgen -W "$(okubsd list --names 2>/dev/null)" -- "$word")) ;;
		completion) COMPREPLY=($(compgen -W "{" ".join(_SHELLS)}" -- "$word")) ;;
		*) COMPREPLY=($(compgen -f -- "$word")) ;;
		esac
	fi
}}
complete -F _okubsd okubsd
"""


def render_zsh() -> str:
    """Return the completion for zsh(1)."""
    rows = "\n".join(f"\t\t'{row.name}:{row.summary.replace(chr(39), '')}'" for row in ROWS)
    return f"""#compdef okubsd
# zsh completion for okubsd: okubsd completion zsh >"${{fpath[1]}}/_okubsd"
_okubsd() {{
	local -a verbs
	verbs=(
{rows}
	)
	if (( CURRENT == 2 )); then
		_describe command verbs
	else
		local verb=$words[2]
		(( CURRENT > 3 )) && [[ $verb = (net|vpn) ]] && verb=vm
		case $verb in
{_zsh_verbs()}
		{_verbs_taking("vm")}|vm) compadd -- ${{(f)"$(okubsd list --names 2>/dev/null)"}} ;;
		completion) compadd -- {" ".join(_SHELLS)} ;;
		*) _files ;;
		esac
	fi
}}
if [ "$funcstack[1]" = _okubsd ]; then _okubsd "$@"; else compdef _okubsd okubsd; fi
"""


def render_fish() -> str:
    """Return the completion for fish(1)."""
    lines = ["# fish completion for okubsd: okubsd completion fish | source", "complete -c okubsd -f"]
    for row in ROWS:
        summary = row.summary.replace("'", "\\'")
        lines.append(f"complete -c okubsd -n __fish_use_subcommand -a {row.name} -d '{summary}'")
    seen = _verbs_taking("vm").replace("|", " ")
    lines.append(f"complete -c okubsd -n '__fish_seen_subcommand_from {seen}' -a '(okubsd list --names 2>/dev/null)'")
    for verb, words in _VERBS.items():
        lines.append(f"complete -c okubsd -n '__fish_seen_subcommand_from {verb}' -a '{' '.join(words)}'")
    lines.append(f"complete -c okubsd -n '__fish_seen_subcommand_from completion' -a '{' '.join(_SHELLS)}'")
    lines.append("complete -c okubsd -n '__fish_seen_subcommand_from cp screenshot' -F")
    return "\n".join(lines) + "\n"


def render_ksh() -> str:
    """Return the completion for OpenBSD's ksh(1): arrays called complete_COMMAND_N."""
    return f"""# ksh completion for okubsd, in ~/.kshrc: eval "$(okubsd completion ksh)"
set -A complete_okubsd_1 -- {" ".join(names())}
set -A complete_okubsd_2 -- $(okubsd list --names 2>/dev/null) {_all_verbs()}
"""


def _all_verbs() -> str:
    return " ".join(dict.fromkeys(word for words in _VERBS.values() for word in words))


RENDERERS = {"bash": render_bash, "zsh": render_zsh, "fish": render_fish, "ksh": render_ksh}


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion for a shell."""
    print(RENDERERS[shell](), end="")
