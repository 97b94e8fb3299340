"""The okubsd command: argv in, exit code out (okubsd(1))."""

from __future__ import annotations

import gc
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from okubsd.cli.session import Verbs, reporter
from okubsd.cli.table import ROWS, names, row_named
from okubsd.config.names import did_you_mean, quoted
from okubsd.errors import Misuse, Problem
from okubsd.host.session import Session

INTERRUPTED = 130
BUG = 70  # EX_SOFTWARE of sysexits(3)


class Commands(Verbs):
    """The commands of the table; a command's module is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = row_named(cmd_name)
        if row is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"okubsd.cli.{row.module}"), row.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if row_named(args[0]) is None:
            hint = did_you_mean(args[0], names())
            raise Misuse(f"there is no command {quoted(args[0])}{hint}", "okubsd --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.summary) for row in ROWS])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--file", "description", metavar="FILE", default="", help="Read this description.")
@click.option("-v", "--verbose", count=True, help="Show the commands that are run.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.version_option(None, "--version", package_name="okubsd", message="okubsd %(version)s")
@click.pass_context
def okubsd(ctx: click.Context, description: str, verbose: int, quiet: bool) -> None:
    """Run every big, risky program in its own light Linux VM."""
    if verbose:
        from okubsd.host.door import Verbosity

        Verbosity.show_argv = True
    ctx.obj = Session(description, reporter(quiet=quiet), quiet=quiet)


def call(args: Sequence[str]) -> int:
    """Carry out the command line ``args`` and return the exit code; a Problem becomes one sentence on stderr."""
    try:
        result: Any = okubsd.main(list(args), prog_name="okubsd", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "okubsd"
        tell(error.format_message().rstrip("."), f"{path} --help")
        return Misuse.code
    except click.exceptions.Abort:
        return INTERRUPTED
    except Problem as problem:
        tell(problem.sentence, problem.hint)
        return problem.code
    except KeyboardInterrupt:
        tell("interrupted; what was begun is undone", "")
        return INTERRUPTED
    except BrokenPipeError:
        _say_no_more()
        return 1
    except OSError as error:
        where = quoted(error.filename, 200)[1:-1] if error.filename else "the system"
        tell(f"{where}: {error.strerror or quoted(error, 200)[1:-1]}", "")
        return 1
    except Exception as error:  # a bug of ours: whoever meets it can send it, and need not read it
        tell(*_report_bug(error, args))
        return BUG


def _say_no_more() -> None:
    """Whoever read our output has gone; there is nobody to tell, and what is left of it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_bug(error: Exception, args: Sequence[str]) -> tuple[str, str]:
    """Write down what happened, and return the sentence and what to do with it."""
    import tempfile
    import traceback

    from okubsd import __version__

    text = f"okubsd {__version__} {' '.join(args)}\n{''.join(traceback.format_exception(error))}"
    with tempfile.NamedTemporaryFile("w", prefix="okubsd-bug-", suffix=".txt", delete=False, errors="replace") as file:
        file.write(text)
    sentence = f"this is a bug of okubsd, not your mistake: {type(error).__name__}: {quoted(error, 200)[1:-1]}"
    return sentence, f"look through {file.name} for secrets, and send it to whoever you have okubsd from"


def tell(sentence: str, hint: str) -> None:
    """Print a failure on stderr, each of its lines after our name; what was typed may hold anything."""
    from okubsd.cli.session import harmless

    for line in sentence.split("\n"):
        print(f"okubsd: {harmless(line)}", file=sys.stderr)
    if hint:
        print(f"okubsd: {'try: ' if _COMMAND.match(hint) else ''}{harmless(hint)}", file=sys.stderr)


# A hint is a command that can be typed, or else a sentence.
_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )?"
    r"(?:okubsd|doas|sudo|su|chmod|ls|rm|cp|mkdir|install|kill|apt-get|export|groupadd|rcctl|tail|dmesg|vmd) "
)


def main() -> None:
    """Run the command line of this process."""
    # What is read at the start is kept to the end: looking through it for garbage again and again finds none.
    gc.set_threshold(100_000, 20, 20)
    # A letter that the terminal has none for is no reason to end.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        sys.exit(call(sys.argv[1:]))
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            _say_no_more()
