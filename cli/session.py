"""Shared by all commands on runs: progress, interruption, opening and resuming the run."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mobilenas.core import processes
from mobilenas.core.folders import unlock_folders
from mobilenas.core.progress import Reporter
from mobilenas.core.setting import settings_of
from mobilenas.core.settings import Fields

from .endings import Interrupted, Lacking, lack_of, status_of_signal
from .options import ALLOWED_MODELS, typed
from .progress import make_reporter
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.pipeline.request import Request
    from mobilenas.pipeline.run_folder import Run


_SPECIAL = {*range(32), *b"\\'", *range(127, 256)}


@contextmanager
def working(
    again: str,
    folder: Path | None,
    *,
    quiet: bool,
    record: str = "run.json",
    many: bool = False,
) -> Iterator[Reporter]:
    """Show progress; if the work is stopped, print the command that resumes it (`again`).

    `record` is the file in `folder` that exists once work has begun. With `many`, torchrun may
    start several processes: only the first one shows progress and continues after the context.
    """
    if processes.launched() and not many:
        raise click.UsageError("torchrun is for `mobilenas search` and `mobilenas train` only")
    first = True
    try:
        with processes.joined():
            first = processes.is_first()
            mirrored = folder if first else None
            with make_reporter(quiet or not first) as shown, _mirrored(shown, mirrored) as reporter:
                yield reporter
    except KeyboardInterrupt as error:
        if not first:
            raise click.exceptions.Exit(status_of_signal(error)) from None
        if _is_begun(folder, record):
            raise Interrupted(f"interrupted; resume with: {again}{_allowing()}", error) from None
        raise Interrupted("interrupted before anything was begun", error) from None
    except (MemoryError, OSError, RuntimeError) as error:
        lack = lack_of(error)
        if not lack:
            raise
        hint = f"; resume with: {again}{_allowing()}" if _is_begun(folder, record) else ""
        raise Lacking(f"{lack}{hint}", error) from error
    finally:
        unlock_folders()
    if not first:
        raise click.exceptions.Exit(0)


def opened(opening: "Callable[[], Run]", folder: Path, reporter: Reporter) -> "Run":
    """Open or start a run by `opening` in the first process; others open the existing run."""
    from mobilenas.pipeline.run_folder import open_run

    runs: list[Run] = []
    processes.on_first(lambda: runs.append(opening()))
    return runs[0] if runs else open_run(folder, reporter)


def _mirrored(reporter: Reporter, folder: Path | None) -> AbstractContextManager[Reporter]:
    ctx = click.get_current_context(silent=True)
    if folder is None or ctx is None or not ctx.params.get("tensorboard"):
        return nullcontext(reporter)
    from .tensorboard import mirrored

    return mirrored(reporter, folder)


def _is_begun(folder: Path | None, record: str) -> bool:
    with suppress(OSError):  # such as a name that is too long
        return folder is not None and (folder / record).exists()
    return False


def _allowing() -> str:
    """Return the options that allow the user's own models when resuming."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return ""
    names: list[str] = list(ctx.meta.get(ALLOWED_MODELS, ()))
    model = ctx.params.get("model")
    if model is not None and not model.startswith("torchvision:") and not Path(model).exists():
        names.append(model)
    return "".join(f" --allow-model {shlex.quote(name)}" for name in names)


def resume_command(ctx: click.Context, name: str) -> str:
    """Return the command that resumes the job in --out.

    Called before slow imports, so that a wrong --out is an error at once.
    """
    if ctx.params["out"] is None:
        raise click.UsageError("missing option --out", ctx)
    if ctx.params["resume"] and ctx.params["overwrite"]:
        raise click.UsageError("--resume and --overwrite exclude each other", ctx)
    return f"mobilenas {name} --out {quoted(str(ctx.params['out']))} --resume"


def quoted(word: str) -> str:
    """Quote a word for a shell, including names that are not UTF-8."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (f"\\x{byte:02x}" if byte in _SPECIAL else chr(byte) for byte in os.fsencode(word))
    return f"$'{''.join(escaped)}'"


def requested_settings(ctx: click.Context, kind: "type[Request] | None" = None) -> "Request":
    """Return the Request (or subclass `kind`) of the options."""
    from mobilenas.pipeline.request import Request

    kind = Request if kind is None else kind
    return kind(**given_fields(ctx, kind))


def given_fields(ctx: click.Context, kind: "type[Request] | None" = None) -> Fields:
    """Return the fields of a Request for which the command has options with a value."""
    from mobilenas.pipeline.request import Request

    values = {one.name: ctx.params.get(one.name) for one in settings_of(kind or Request)}
    return {name: value for name, value in values.items() if value is not None}


def check_options(ctx: click.Context, kind: "type[Request] | None" = None) -> None:
    """Raise for wrong options of a new run, before slow imports."""
    if not ctx.params["resume"] and not processes.launched():
        requested_settings(ctx, kind)


def open_or_start(
    ctx: click.Context, reporter: Reporter, kind: "type[Request] | None" = None
) -> "Run":
    """Start the run with these options in --out, or resume it."""
    from mobilenas.channel_graph.models import allow_model
    from mobilenas.pipeline.request import Request
    from mobilenas.pipeline.resuming import resume_run
    from mobilenas.pipeline.run_folder import RUN_FILE, command_line, open_run
    from mobilenas.pipeline.starting import start

    out, resume, overwrite = (ctx.params[name] for name in ("out", "resume", "overwrite"))
    if resume and not states_a_request(ctx):
        return open_run(out, reporter)
    if (model := ctx.params.get("model")) is not None:
        allow_model(model)  # named by the user, not only by files of the folder
    if resume and (run := resume_run(out, typed(ctx, kind or Request), kind or Request, reporter)):
        return run
    with beginning(out / RUN_FILE, resume=resume):
        request = requested_settings(ctx, kind)
    return start(
        out,
        request,
        command=command_line(),
        reporter=reporter,
        resume=resume,
        overwrite=overwrite,
    )


@contextmanager
def beginning(record: Path, *, resume: bool) -> Iterator[None]:
    """Say that there is nothing to resume if options are missing for a new start."""
    from mobilenas.core.errors import BudgetError, FileError

    try:
        yield
    except BudgetError as error:
        if not resume or record.exists():
            raise
        raise FileError(f"there is no {record} to resume, and {error}") from error


def states_a_request(ctx: click.Context) -> bool:
    """Whether an option of the request was given."""
    others = {"out", "resume", "overwrite", "tensorboard", "quiet", "as_json", "dry_run"}
    others |= {"on", "address"}
    return any(
        ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        for name in set(ctx.params) - others
    )


def whole_job(ctx: click.Context, name: str, kind: "type[Request] | None" = None) -> int:
    """Run all stages of the job, show the result, and return the exit status."""
    out, quiet, as_json = (ctx.params[key] for key in ("out", "quiet", "as_json"))
    with working(resume_command(ctx, name), out, quiet=quiet) as reporter:
        check_options(ctx, kind)
        from mobilenas.pipeline.run_folder import COMPARE_FILE
        from mobilenas.pipeline.stages import ONNX_FILE, RESULT_FILE, run_all
        from mobilenas.report.run_page import REPORT_FILE
        from mobilenas.report.table import read_networks

        result = run_all(open_or_start(ctx, reporter, kind))
        networks = read_networks(out / COMPARE_FILE)
    from .render import show_file, show_result, status_of

    if as_json:
        show_file(out / RESULT_FILE)
    else:
        show_result(networks, result)
        echo(f"Report: {out / REPORT_FILE}")
        echo(f"Model: {out / ONNX_FILE}")
    return status_of(result.budgets)
