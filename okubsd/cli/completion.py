"""okubsd completion: words for a shell's completion; it boots nothing and asks no network.

The scripts ask `okubsd completion words` for what could stand next, so that what they offer is what the commands take.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from okubsd.cli.session import pass_session
from okubsd.cli.table import ROWS, names, row_named
from okubsd.host.session import Session

_SHELLS = ("bash", "zsh", "fish", "ksh")
FILES = "<files>"


def render_bash() -> str:
    """Return the completion for bash(1)."""
    return f"""# bash completion for okubsd: eval "$(okubsd completion bash)"
_okubsd() {{
	local line word=${{COMP_WORDS[COMP_CWORD]}}
	COMPREPLY=()
	while IFS= read -r line; do
		if [ "$line" = "{FILES}" ]; then
			compopt -o filenames 2>/dev/null
			while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$word")
		else
			[ "${{line: -1}}" != : ] || compopt -o nospace 2>/dev/null
			COMPREPLY+=("$line")
		fi
	done < <(okubsd completion words -- "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null)
}}
complete -F _okubsd okubsd
"""


def render_zsh() -> str:
    """Return the completion for zsh(1)."""
    rows = "\n".join(f"\t\t'{row.name}:{row.summary.replace(chr(39), '')}'" for row in ROWS)
    return f"""#compdef okubsd
# zsh completion for okubsd: okubsd completion zsh >"${{fpath[1]}}/_okubsd"
_okubsd() {{
	local -a verbs found
	verbs=(
{rows}
	)
	if (( CURRENT == 2 )); then
		_describe command verbs
		return
	fi
	found=(${{(f)"$(okubsd completion words -- ${{words[2,CURRENT]}} 2>/dev/null)"}})
	if (( ${{found[(Ie){FILES}]}} )); then _files; fi
	compadd -- ${{found:#{FILES}}}
}}
if [ "$funcstack[1]" = _okubsd ]; then _okubsd "$@"; else compdef _okubsd okubsd; fi
"""


def render_fish() -> str:
    """Return the completion for fish(1)."""
    lines = ["# fish completion for okubsd: okubsd completion fish | source", "complete -c okubsd -f"]
    for row in ROWS:
        summary = row.summary.replace("'", "\\'")
        lines.append(f"complete -c okubsd -n __fish_use_subcommand -a {row.name} -d '{summary}'")
    asked = (
        "(okubsd completion words -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null | string match -v '<files>')"
    )
    lines.append(
        f"complete -c okubsd -n 'not __fish_use_subcommand' -a '{asked}'".replace("'<files>'", "\\'<files>\\'")
    )
    lines.append("complete -c okubsd -n '__fish_seen_subcommand_from cp screenshot image key render' -F")
    return "\n".join(lines) + "\n"


def render_ksh() -> str:
    """Return the completion for OpenBSD's ksh(1): arrays called complete_COMMAND_N.  ksh93(1) has none at all."""
    verbs = " ".join(dict.fromkeys(word for row in ROWS for word in _verbs_of(row.name)))
    return f"""# ksh completion for okubsd, in ~/.kshrc of OpenBSD: eval "$(okubsd completion ksh)"
set -A complete_okubsd_1 -- {" ".join(names())}
set -A complete_okubsd_2 -- $(okubsd list --names 2>/dev/null) {verbs}
"""


RENDERERS = {"bash": render_bash, "zsh": render_zsh, "fish": render_fish, "ksh": render_ksh}


def _command_of(name: str) -> click.Command | None:
    from okubsd.cli.main import okubsd

    return okubsd.get_command(click.Context(okubsd), name) if row_named(name) else None


def _verbs_of(name: str) -> list[str]:
    command = _command_of(name) if name in _GROUPS else None
    verbs = command.commands.items() if isinstance(command, click.Group) else ()
    return [verb for verb, one in verbs if not one.hidden]


_GROUPS = ("image", "key", "net", "vpn")


def candidates(session: Session, words: list[str]) -> Iterable[str]:
    """Return what could stand in the place of the last of ``words``, which follow the name of the program."""
    *before, word = words or [""]
    if not before:
        return names()
    if word.startswith("-"):
        return _options(before)
    arguments = [one for one in before[1:] if not one.startswith("-")]
    if before[0] in _GROUPS and not arguments:
        return _verbs_of(before[0])
    if before[0] in _GROUPS:
        return _of_group(session, before[0], arguments[0])
    return _of_command(session, before[0], arguments)


def _options(before: list[str]) -> Iterable[str]:
    command = _command_of(before[0])
    if isinstance(command, click.Group) and len(before) > 1:
        command = command.commands.get(before[1])
    parameters = command.params if command is not None else []
    return [name for one in parameters if isinstance(one, click.Option) for name in one.opts if name.startswith("--")]


def _of_group(session: Session, group: str, verb: str) -> Iterable[str]:
    if group == "image" and verb in ("build", "rm", "path", "export"):
        images = sorted(session.known_recipes)
        return [*images, FILES] if verb == "export" else images
    if group == "key" and verb == "rm":
        from okubsd.host.signing import known_keys

        return [known.name for known in known_keys(session.places) if not known.own]
    return _vms(session) if group in ("net", "vpn") else [FILES]


def _of_command(session: Session, name: str, arguments: list[str]) -> Iterable[str]:
    row = row_named(name)
    takes = row.takes if row else ""
    if name == "completion":
        return _SHELLS
    if name == "cp":
        return [*(f"{vm}:" for vm in _vms(session)), FILES]
    if name == "start" and len(arguments) == 1:
        return _apps(session, arguments[0])
    if takes == "vms" or (takes == "vm" and not arguments):
        return _vms(session)
    return [FILES]


def _vms(session: Session) -> list[str]:
    from okubsd.host import running

    described = [vm.name for vm in session.known_description.vms] if session.known_description else []
    return list(dict.fromkeys([*described, *sorted(running.ask_running(session.places))]))


def _apps(session: Session, name: str) -> Iterable[str]:
    vm = session.known_description.find(name) if session.known_description else None
    recipe = session.known_recipes.get(vm.image) if vm else None
    return (vm.apps or tuple(recipe.apps)) if vm and recipe else ()


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("shell", type=click.Choice([*_SHELLS, "words"]))
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@pass_session
def completion(session: Session, shell: str, words: tuple[str, ...]) -> None:
    """Print the completion for a SHELL; 'words -- WORD...' prints what could stand in the place of the last."""
    if shell != "words":
        print(RENDERERS[shell](), end="")
        return
    last = words[-1] if words else ""
    for found in candidates(session, list(words)):
        if found == FILES or found.startswith(last):
            print(found)
