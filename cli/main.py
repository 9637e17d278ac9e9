"""The command line: the group, what every command shares, and what a user sees when something goes wrong.

Exit codes: 0 done, 1 failed, 2 bad usage, 3 a quality gate failed, 130 interrupted, 143 terminated.
Each command is a module of cli.commands that is imported when it is called, so that `--help` is instant.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import FrameType
from typing import NoReturn

import click

from cli.error_sentence import exit_code, sentence
from sixfold import __version__
from sixfold.runner.available_memory import use_memory_whole

COMMANDS = (
    "inspect",
    "plan",
    "prune",
    "calibrate",
    "export",
    "verify",
    "evaluate",
    "suggest",
    "budget",
    "card",
    "report",
    "publish",
    "status",
    "recipes",
    "doctor",
)
"""In the order in which they are used; each is `command` in the module cli.commands.<name>."""


class _Commands(click.Group):
    """A group that imports a command's module only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"No such command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: sixfold export demo/minimax-m2-4.6m all-formats --out artifacts",
)
@click.version_option(__version__, prog_name="sixfold")
@click.option("-v", "--verbose", is_flag=True, help="Also say what the libraries say, in the log and on the terminal.")
def cli(verbose: bool) -> None:
    """Turn one BF16 checkpoint into every quantized format that people run."""
    if verbose:
        os.environ["TRANSFORMERS_VERBOSITY"] = "info"
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler or a container sends it: the work ends as on Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits; never shows a traceback."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code. Every error is one sentence on stderr."""
    # transformers logs remarks about every config; sixfold itself reports what matters to a user.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    use_memory_whole()
    try:
        code = cli.main(arguments, prog_name="sixfold", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__ or error, _Terminated):
            _say("terminated; run the same command again to resume.")
            return 128 + signal.SIGTERM
        _say("interrupted; run the same command again to resume.")
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has left; the interpreter must not try to flush what it will not read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        _say(sentence(error))
        return exit_code(error)


def _say(message: str) -> None:
    click.echo(f"sixfold: {message}", err=True)
