"""The command line: a lazy group of commands, and one place where errors become sentences.

Exit codes: 0; 1 the work failed; 2 wrong usage; 130 on Ctrl-C; 143 on SIGTERM.
"""

import errno
import os
import sys
import traceback
from importlib import import_module

import click

from wbcli import __version__, console
from wbcli.training import signals
from wbcli.words import printable

COMMANDS = {  # command → module of wbcli.cli that holds it
    "stage1": "training",
    "stage2": "training",
    "normalize": "training",
    "eval": "measuring",
    "tune": "tune",
    "reproduce": "reproduce",
    "predict": "using",
    "export": "using",
    "features": "features",
    "runs": "runs",
    "methods": "methods",
    "report": "report",
    "data": "data",
    "bench": "bench",
    "doctor": "doctor",
}


class Lazy(click.Group):
    """Imports a command's module when the command is used: `--help` must be instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"wbcli.cli.{COMMANDS[name]}")
        return getattr(module, f"{name}_command")


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wbcli")
def cli():
    """Train image classifiers that are fair to rare classes, by weight balancing.

    \b
    Example, on the digits that ship with wbcli:
      wbcli stage1 digitslt
      wbcli stage2 --maxnorm 0.1
      wbcli eval

    Every option can also come from the environment: WBCLI_ and the option's name
    (WBCLI_WD=5e-3, WBCLI_STAGE1_WD=5e-3 for one command only).
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    signals.install()
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may be any bytes
    try:
        code = cli.main(args, prog_name="wbcli", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "wbcli"
        click.echo(f"Error: {error.format_message()} (see {command} --help)", err=True)
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        code = 130
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError, ImportError) as error:
        code = _failed(error)
    sys.exit(code if isinstance(code, int) else 0)


def _failed(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return 1
    if console.verbosity > 0:
        traceback.print_exception(error)
    text = " ".join(_sentence(error).split()) or type(error).__name__
    click.echo(f"Error: {printable(text)}", err=True)
    return 1


def _sentence(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without its number
        return error.strerror + (f": {error.filename}" if error.filename else "")
    out_of_memory = ("out of memory", "can't allocate memory")
    if isinstance(error, MemoryError) or any(words in text for words in out_of_memory):
        reason = f" ({text.splitlines()[0][:200]})" if text else ""
        return (
            f"out of memory{reason}: lower --batch-size, or --image-size for pictures on disk, "
            "raise --accumulate, or take --precision bf16; in stage 2 --views 1 or --cache none"
        )
    return text
