"""`mobilenas profile latency`, `kit`, `import` and `calibrate`: commands that make profiles."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenas.core.progress import Reporter
from mobilenas.latency.settings import MeasureSettings, ProfileSettings
from mobilenas.onnx.settings import PRECISIONS

from .command import Command
from .options import PATH, json_option, option, options_of, output_options, typed
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.latency.measured import Measured
    from mobilenas.latency.profile import Profile
    from mobilenas.latency.units import MeasuredSpace


def spaces_of(ctx: click.Context, settings: ProfileSettings) -> "dict[str, MeasuredSpace]":
    """Return the space to measure for each precision."""
    if settings.space is None and settings.pretrained is None:
        raise click.UsageError("missing option --space or --pretrained", ctx)
    if settings.image_size is None:
        raise click.UsageError("missing option --image-size", ctx)
    if settings.pretrained is not None:
        from mobilenas.search.space_subnetworks import parts_up_to

        space = parts_up_to(settings.pretrained, settings.image_size, settings.classes)
        return dict.fromkeys(settings.precision, space)
    from mobilenas.cost.budget import Budget
    from mobilenas.pipeline.request import ACTIVATION_FOR
    from mobilenas.search import space_for

    side = settings.image_size
    return {
        precision: space_for(
            [Budget(cost="flops", limit=settings.flops_at(side))],
            image_size=side,
            in_channels=settings.channels,
            classes=settings.classes,
            activation=settings.activation or ACTIVATION_FOR[precision],
        )
        for precision in settings.precision
    }


@contextmanager
def measuring(quiet: bool) -> Iterator[Reporter]:
    """Show progress; if interrupted, say that the same command resumes."""
    from .endings import Interrupted
    from .progress import make_reporter

    try:
        with make_reporter(quiet) as reporter:
            yield reporter
    except KeyboardInterrupt as error:
        message = "interrupted; the same command resumes"
        raise Interrupted(message, error) from None


name_option = option("--name", metavar="NAME", help="Name of the profile.")
overwrite_option = option("--overwrite", is_flag=True, help="Replace the profile of this name.")


@click.command(cls=Command, name="latency")
@click.argument(
    "models",
    metavar="[MODEL.onnx]...",
    nargs=-1,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@options_of(ProfileSettings)
@options_of(MeasureSettings)
@name_option
@overwrite_option
@output_options
@click.pass_context
def latency(
    ctx: click.Context,
    /,
    models: tuple[Path, ...],
    name: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Measure ONNX models, or a whole space, which makes a profile.

    mobilenas profile latency model.onnx other.onnx

    mobilenas profile latency --space mobile --image-size 224 --name this-laptop

    A profile holds the times of every part of the space's networks, so that the latency of any of
    them is known without building it. A second space or precision of the same name is added to
    the profile. If interrupted, the same command resumes.
    """
    settings = MeasureSettings(**typed(ctx, MeasureSettings))
    of_space = typed(ctx, ProfileSettings)
    if models and (of_space or name is not None or overwrite):
        raise click.UsageError("options of a space and its profile do not go with MODEL.onnx", ctx)
    if models:
        _time_files(models, settings, quiet=quiet, as_json=as_json)
        return
    if name is None:
        raise click.UsageError(
            "missing MODEL.onnx, or the options --space, --image-size and --name", ctx
        )
    profile = _measure_space(ctx, ProfileSettings(**of_space), settings)
    keep(profile, as_json=as_json)


def _measure_space(
    ctx: click.Context, requested: ProfileSettings, settings: MeasureSettings
) -> "Profile":
    name, overwrite = ctx.params["name"], ctx.params["overwrite"]
    with measuring(ctx.params["quiet"]) as reporter:
        from mobilenas.latency.building import build_profile
        from mobilenas.latency.cache import Cache
        from mobilenas.latency.named_profiles import profile_path
        from mobilenas.latency.profile import read_profile
        from mobilenas.pipeline.run_folder import command_line

        path = profile_path(name)
        return build_profile(
            spaces_of(ctx, requested),
            name=name,
            networks=requested.networks,
            seed=requested.seed,
            cache=Cache(),
            reporter=reporter,
            command=command_line(),
            previous=read_profile(path) if path.exists() and not overwrite else None,
            **vars(settings),
        )


def _time_files(
    models: tuple[Path, ...], settings: MeasureSettings, *, quiet: bool, as_json: bool
) -> None:
    from mobilenas.core.errors import FileError
    from mobilenas.latency.measured import Failed
    from mobilenas.latency.meter import measure

    with measuring(quiet) as reporter:
        found = measure({str(path): path for path in models}, reporter=reporter, **vars(settings))
    times: dict[str, Measured] = {}
    for path, time in found.items():
        if isinstance(time, Failed):
            raise FileError(f"{path}: {time.reason}")
        times[path] = time
    from .profiles import show_times

    show_times(times, settings.threads, settings.provider, as_json=as_json)


@click.command(cls=Command, name="kit")
@options_of(ProfileSettings)
@option("--out", metavar="FOLDER", type=PATH, help="Folder to write.")
@output_options
@click.pass_context
def kit(ctx: click.Context, /, out: Path | None, quiet: bool, as_json: bool, **_: object) -> None:
    """Write the models of a space for another device to measure.

    The folder's README.md says how: with Python on the device, or with adb and
    onnxruntime_perf_test on a phone.
    """
    if out is None:
        raise click.UsageError("missing option --out", ctx)
    requested = ProfileSettings(**typed(ctx, ProfileSettings))
    with measuring(quiet) as reporter:
        from mobilenas.latency.kit import write_kit

        spaces = spaces_of(ctx, requested)
        manifest = write_kit(
            spaces, out, networks=requested.networks, seed=requested.seed, reporter=reporter
        )
    from .render import show_json

    if as_json:
        show_json({"kit": manifest.kit, "folder": str(out), "models": len(manifest.models)})
    else:
        echo(f"{len(manifest.models)} models of kit {manifest.kit}; read {out}/README.md")


@click.command(cls=Command, name="import")
@click.argument("results", metavar="kit-results.json", type=PATH)
@option(
    "--kit",
    "folder",
    metavar="FOLDER",
    type=PATH,
    help="The kit these must be results of.",
)
@name_option
@overwrite_option
@json_option
@click.pass_context
def import_(
    ctx: click.Context,
    /,
    results: Path,
    folder: Path | None,
    name: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a profile from the results of a kit on another device."""
    if name is None:
        raise click.UsageError("missing option --name", ctx)
    refuse(name, overwrite=overwrite)
    from mobilenas.latency.kit import import_results
    from mobilenas.pipeline.run_folder import command_line

    profile = import_results(results, name, kit=folder, command=command_line())
    keep(profile, as_json=as_json)


@click.command(cls=Command, name="calibrate")
@option("--from", "source", metavar="NAME", help="The profile to start from.")
@option(
    "--times",
    metavar="times.csv",
    type=PATH,
    help="Columns network,latency_ms: an arch.json or a MobileNet, and what it took.",
)
@option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default_text="the profile's first",
    help="Precision of the networks that were timed.",
)
@name_option
@overwrite_option
@output_options
@click.pass_context
def calibrate(
    ctx: click.Context,
    /,
    source: str | None,
    times: Path | None,
    precision: str | None,
    name: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a profile from a few networks timed on another device.

    times.csv has the latency of one image for each network, measured on the device. A network is an
    arch.json from `profile suggest`, or mobilenet_v2[:WIDTH[:SIDE]], mobilenet_v3_small or
    mobilenet_v3_large. Parts of these MobileNets are measured first, which works only on the
    profile's own machine.

    With 8 networks or more, parts are corrected by kind of operation if cross-validation shows that
    this is better than one scale for all.
    """
    if source is None or times is None or name is None:
        raise click.UsageError("missing option --from, --times or --name", ctx)
    refuse(name, overwrite=overwrite)
    from mobilenas.latency.named_profiles import find_profile
    from mobilenas.latency.transfer import read_times, transfer
    from mobilenas.pipeline.run_folder import command_line

    with measuring(quiet) as reporter:
        profile = transfer(
            find_profile(source),
            read_times(times),
            name,
            precision=precision,
            command=command_line(),
            reporter=reporter,
        )
    keep(profile, as_json=as_json)


def refuse(name: str, *, overwrite: bool) -> None:
    """Raise if there is already a profile of this name."""
    from mobilenas.core.errors import MobileNASError
    from mobilenas.latency.named_profiles import profile_path

    path = profile_path(name)
    if path.exists() and not overwrite:
        raise MobileNASError(f"{path} exists already; use --overwrite or another --name")


def keep(profile: "Profile", *, as_json: bool) -> None:
    """Write a profile and show it."""
    from mobilenas.latency.named_profiles import profile_path
    from mobilenas.latency.profile import write_profile

    from .profiles import show_profile

    path = profile_path(profile.name)
    write_profile(profile, path)
    show_profile(profile, as_json=as_json)
    if not as_json:
        echo(f"Profile: {path}")
