"""okubsd completion: words for a shell's completion; it boots nothing and asks no network."""

from __future__ import annotations

import click

from okubsd.cli.table import ROWS, names

_IMAGE_VERBS = ("build", "ls", "rm", "path", "export", "import")
_SHELLS = ("bash", "zsh", "fish", "ksh")


def _verbs_taking(what: str) -> str:
    return "|".join(row.name for row in ROWS if row.takes.startswith(what))


def render_bash() -> str:
    """Return the completion for bash(1)."""
    return f"""# bash completion for okubsd: eval "$(okubsd completion bash)"
_okubsd() {{
	local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}}
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W "{" ".join(names())}" -- "$word"))
	else
		case $verb in
		{_verbs_taking("vm")}) COMPREPLY=($(compgen -W "$(okubsd list --names 2>/dev/null)" -- "$word")) ;;
		image) COMPREPLY=($(compgen -W "{" ".join(_IMAGE_VERBS)}" -- "$word")) ;;
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
		case $words[2] in
		{_verbs_taking("vm")}) compadd -- ${{(f)"$(okubsd list --names 2>/dev/null)"}} ;;
		image) compadd -- {" ".join(_IMAGE_VERBS)} ;;
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
    lines.append(f"complete -c okubsd -n '__fish_seen_subcommand_from image' -a '{' '.join(_IMAGE_VERBS)}'")
    lines.append(f"complete -c okubsd -n '__fish_seen_subcommand_from completion' -a '{' '.join(_SHELLS)}'")
    lines.append("complete -c okubsd -n '__fish_seen_subcommand_from cp screenshot' -F")
    return "\n".join(lines) + "\n"


def render_ksh() -> str:
    """Return the completion for OpenBSD's ksh(1): arrays called complete_COMMAND_N."""
    return f"""# ksh completion for okubsd, in ~/.kshrc: eval "$(okubsd completion ksh)"
set -A complete_okubsd_1 -- {" ".join(names())}
set -A complete_okubsd_2 -- $(okubsd list --names 2>/dev/null) {" ".join(_IMAGE_VERBS)}
"""


RENDERERS = {"bash": render_bash, "zsh": render_zsh, "fish": render_fish, "ksh": render_ksh}


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion for a shell."""
    print(RENDERERS[shell](), end="")
