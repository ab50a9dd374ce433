"""The entry point: imports commands when they are called, and determines the exit status."""

import contextlib
import importlib
import io
import os
import sys
import warnings
from typing import Any

import click

from mobilenas import __version__
from mobilenas.core.allocator import keep_freed_memory
from mobilenas.core.errors import InternalError, MobileNASError
from mobilenas.core.plugins import load_plugins
from mobilenas.core.processes import launched
from mobilenas.core.settings import COUNTING_RULE

from .endings import (
    WRONG_INPUT,
    Interrupted,
    abandon,
    catch_signals,
    lack_of,
    open_streams,
    status_of_lack,
    status_of_signal,
)
from .terminal import echo

OWN_FAULT = 1
SIGNALLED = 128
_LONGEST_LINE = 2000

COMMANDS = {
    "run": "Search, train, export, compare and report in one go.",
    "search": "Search for a network that meets the budgets.",
    "train": "Train the searched network.",
    "export": "Write the trained network as an ONNX file and check it.",
    "compare": "Train the baselines and verify the budgets.",
    "report": "Write report.html of a run or a sweep.",
    "sweep": "Run once for each of several budgets, penalties or methods.",
    "ablate": "Compare search methods over seeds.",
    "methods": "Show the search methods and their parts.",
    "recipes": "Show the training recipes and their fields.",
    "pretrained": "List pretrained networks and where their weights are.",
    "profile": "Count the cost of a network, or measure its latency.",
    "channels": "Search the channel sizes of a model of your own.",
    "predict": "Classify images with an exported network.",
    "try": "Try the networks of a run in a browser, such as a phone's.",
}
"""All commands with their line of `--help`, which needs no imports."""


class Commands(click.Group):
    """Imports `cli/NAME.py` when NAME is called, and turns errors into exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of typical use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        load_plugins()
        module = importlib.import_module(f".{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and exit: 0 done, 2 wrong input, 3 budget not met, 130 interrupted.

        Other errors are status 1: a line if the machine lacks something, else a traceback.
        """
        settings = {"prog_name": "mobilenas"} | kwargs | {"standalone_mode": False}
        try:
            status = super().main(*args, **settings)
            sys.stdout.flush()
        except click.ClickException as error:
            status = error.exit_code
            _complain(error.format_message(), error)
        except InternalError as error:
            status = OWN_FAULT
            _complain(f"{error}; this is a fault of mobilenas, not of your input: please report it")
        except MobileNASError as error:
            status = WRONG_INPUT
            _complain(str(error))
        except click.Abort as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            status = status_of_signal(error.__cause__)
            echo("mobilenas: interrupted", err=True)
        except (ImportError, MemoryError, OSError, RuntimeError) as error:
            status, lack = status_of_lack(error), lack_of(error)
            abandon(sys.stdout)  # so that Python's flush at exit does not fail
            if lack:
                _complain(lack)
            elif not isinstance(error, BrokenPipeError):  # the reader of stdout has exited
                raise
        sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str, error: click.ClickException | None = None) -> None:
    """Print an error in one line."""
    line = " ".join(message.split())
    line = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."
    if isinstance(error, Interrupted):
        echo(f"mobilenas: {line}", err=True)
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" (see `{context.command_path} --help`)" if context else ""
    echo(f"mobilenas: error: {line}{hint}", err=True)


@click.group(
    name="mobilenas",
    cls=Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"FLOPs everywhere: {COUNTING_RULE}. Exit status: 0 done and every budget holds, "
    "2 wrong input, 3 done, but a budget does not hold or is not verified, 130 interrupted (143 by "
    "SIGTERM, 129 by SIGHUP), 1 anything else.",
)
@click.version_option(__version__, prog_name="mobilenas")
def cli() -> None:
    """Neural architecture search for phones, from an image folder to an ONNX file.

    Searches for a network within a budget of FLOPs, parameters, memory or latency, and trains it.
    Start with: mobilenas run --data FOLDER --flops 5M --out RUN
    """


def main() -> None:
    """Run the command line, for `mobilenas` and `python -m mobilenas`."""
    # Read when torch is imported: waiting threads sleep instead of spinning. Otherwise two threads
    # take a hundred times as long as one if other programs use the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Read when Pillow is imported: an image in a single block is returned to the system, whereas
    # each decoding thread would keep some blocks of 16 MB.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "512m")
    keep_freed_memory()
    open_streams()
    # images.py has its own limit, with an error that names the file
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # terminals with another encoding show class names escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    catch_signals()
    try:
        cli()
    except SystemExit as ending:
        if isinstance(ending.code, int) and (ending.code > SIGNALLED or launched()):
            # After Ctrl-C, exit at once: torch takes a second to shut down, and all files are
            # complete. Likewise for one of several processes, because a torch thread may abort the
            # shutdown.
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(ending.code)
        raise
