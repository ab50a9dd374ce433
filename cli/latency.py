"""`mobilenas profile latency`, `kit`, `import` and `calibrate`: what makes a profile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenas.core.progress import Reporter

from .options import ACTIVATIONS, PATH, PRECISIONS, json_option, output_options, size
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.latency.measured import Measured
    from mobilenas.latency.profile import Profile
    from mobilenas.spaces.mobile.space import MobileSpace

# Written out because the library's own stands beside onnxruntime, which `--help` does not import;
# tests/cli/test_profile_latency.py holds it against that one.
PROVIDER = "CPUExecutionProvider"
_FLOPS_AT_224 = 300_000_000


def precisions(text: str) -> tuple[str, ...]:
    """Read names with commas between them; for click, as the type of an option."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in PRECISIONS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(PRECISIONS)}")
    return tuple(dict.fromkeys(names))


_SPACE = (
    click.option("--space", type=click.Choice(["mobile"]), help="The space to measure."),
    click.option("--image-size", type=click.IntRange(4, 4096), metavar="N", help="Side in pixels."),
    click.option(
        "--flops",
        type=size,
        metavar="SIZE",
        help="FLOPs the space lies around; 300M at 224 pixels, by the image's area at others.",
    ),
    click.option("--channels", type=click.IntRange(1, 64), metavar="N", help="Of the image; 3."),
    click.option(
        "--classes",
        type=click.IntRange(2, 65536),
        metavar="N",
        help="Of the networks that calibrate; 10. A profile serves any number.",
    ),
    click.option(
        "--precision",
        type=precisions,
        metavar="NAMES",
        help=f"{', '.join(PRECISIONS)}, with a comma between them; fp32 unless said.",
    ),
    click.option(
        "--activation",
        type=click.Choice(ACTIVATIONS),
        help="Of the blocks; hard_swish for fp32 and relu for int8 unless said.",
    ),
    click.option(
        "--networks",
        type=click.IntRange(4, 1000),
        metavar="N",
        help="Whole networks to calibrate and test with; 45.",
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**31 - 1), metavar="N", help="Which networks; 0."
    ),
)
_DEFAULTS: dict[str, Any] = {
    "flops": None,
    "channels": 3,
    "classes": 10,
    "precision": ("fp32",),
    "activation": None,
    "networks": 45,
    "seed": 0,
}


def _space_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SPACE):
        function = option(function)
    return function


def _spaces(ctx: click.Context, asked: dict[str, Any]) -> "dict[str, MobileSpace]":
    """Return the space of each precision."""
    for name in ("space", "image_size"):
        if name not in asked:
            raise click.UsageError(f"say --{name.replace('_', '-')}", ctx)
    from mobilenas.cost.budget import Budget
    from mobilenas.pipeline.request import ACTIVATION_FOR
    from mobilenas.search import space_for

    side = asked["image_size"]
    flops = asked["flops"] or round(_FLOPS_AT_224 * (side / 224) ** 2)
    return {
        precision: space_for(
            [Budget(cost="flops", limit=flops)],
            image_size=side,
            in_channels=asked["channels"],
            classes=asked["classes"],
            activation=asked["activation"] or ACTIVATION_FOR[precision],
        )
        for precision in asked["precision"]
    }


@contextmanager
def _measuring(quiet: bool) -> Iterator[Reporter]:
    from .endings import Interrupted
    from .progress import make_reporter

    try:
        with make_reporter(quiet) as reporter:
            yield reporter
    except KeyboardInterrupt as error:
        told = "interrupted; the same command goes on with what was measured"
        raise Interrupted(told, error) from None


def _given(ctx: click.Context, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: ctx.params[name] for name in names if ctx.params[name] is not None}


_threads = click.option(
    "--threads", type=click.IntRange(min=1), default=1, metavar="N", help="Of onnxruntime; 1."
)
_name = click.option("--name", metavar="NAME", help="What the profile is called.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace the profile of this name.")


@click.command(name="latency")
@click.argument(
    "models",
    metavar="[MODEL.onnx]...",
    nargs=-1,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@_space_options
@_threads
@click.option("--provider", metavar="NAME", help=f"Of onnxruntime; {PROVIDER}.")
@click.option("--rounds", type=click.IntRange(1, 10_000), metavar="N", help="Least rounds; 16.")
@_name
@_overwrite
@output_options
@click.pass_context
def latency(
    ctx: click.Context,
    /,
    models: tuple[Path, ...],
    threads: int,
    name: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Measure ONNX models, or a whole space, which makes a profile.

    mobilenas profile latency model.onnx other.onnx

    mobilenas profile latency --space mobile --image-size 224 --name this-laptop

    A profile holds the times of every part of the space's networks, so that the latency of any of
    them is known without building it. A second space or precision of the same name is added to
    the profile. Interrupted, the same command goes on.
    """
    settings = {"threads": threads} | _given(ctx, ("provider", "rounds"))
    of_space = _given(ctx, ("space", "image_size", *_DEFAULTS))
    if models and (of_space or name is not None or overwrite):
        raise click.UsageError("options of a space and its profile do not go with MODEL.onnx", ctx)
    if models:
        _time_files(models, settings, quiet=quiet, as_json=as_json)
        return
    if name is None:
        raise click.UsageError("say MODEL.onnx, or --space, --image-size and --name", ctx)
    profile = _measure_space(ctx, _DEFAULTS | of_space, settings)
    _keep(profile, as_json=as_json)


def _measure_space(
    ctx: click.Context, asked: dict[str, Any], settings: dict[str, Any]
) -> "Profile":
    name, overwrite = ctx.params["name"], ctx.params["overwrite"]
    with _measuring(ctx.params["quiet"]) as reporter:
        from mobilenas.latency.building import build_profile
        from mobilenas.latency.cache import Cache
        from mobilenas.latency.profile import profile_path, read_profile
        from mobilenas.pipeline.run_folder import command_line

        path = profile_path(name)
        return build_profile(
            _spaces(ctx, asked),
            name=name,
            networks=asked["networks"],
            seed=asked["seed"],
            cache=Cache(),
            reporter=reporter,
            command=command_line(),
            previous=read_profile(path) if path.exists() and not overwrite else None,
            **settings,
        )


def _time_files(
    models: tuple[Path, ...], settings: dict[str, Any], *, quiet: bool, as_json: bool
) -> None:
    from mobilenas.core.errors import FileError
    from mobilenas.latency.measured import Failed
    from mobilenas.latency.meter import measure

    with _measuring(quiet) as reporter:
        found = measure({str(path): path for path in models}, reporter=reporter, **settings)
    times: dict[str, Measured] = {}
    for path, time in found.items():
        if isinstance(time, Failed):
            raise FileError(f"{path}: {time.reason}")
        times[path] = time
    from .profiles import show_times

    show_times(times, settings["threads"], settings.get("provider", PROVIDER), as_json=as_json)


@click.command(name="kit")
@_space_options
@click.option("--out", metavar="FOLDER", type=PATH, help="Folder to write.")
@output_options
@click.pass_context
def kit(ctx: click.Context, /, out: Path | None, quiet: bool, as_json: bool, **_: Any) -> None:
    """Write the models of a space for another device to measure.

    The folder's README.md says how: with Python on the device, or with adb and
    onnxruntime_perf_test on a phone.
    """
    if out is None:
        raise click.UsageError("say --out", ctx)
    asked = _DEFAULTS | _given(ctx, ("space", "image_size", *_DEFAULTS))
    with _measuring(quiet) as reporter:
        from mobilenas.latency.kit import write_kit

        spaces = _spaces(ctx, asked)
        counts = {name: asked[name] for name in ("networks", "seed")}
        manifest = write_kit(spaces, out, reporter=reporter, **counts)
    from .render import show_json

    if as_json:
        show_json({"kit": manifest.kit, "folder": str(out), "models": len(manifest.models)})
    else:
        echo(f"{len(manifest.models)} models of kit {manifest.kit}; read {out}/README.md")


@click.command(name="import")
@click.argument("results", metavar="kit-results.json", type=PATH)
@click.option(
    "--kit",
    "folder",
    metavar="FOLDER",
    type=PATH,
    help="The kit these must be results of.",
)
@_name
@_overwrite
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
    """Make a profile of what a kit measured on another device."""
    if name is None:
        raise click.UsageError("say --name", ctx)
    _refuse(name, overwrite=overwrite)
    from mobilenas.latency.kit import import_results
    from mobilenas.pipeline.run_folder import command_line

    profile = import_results(results, name, kit=folder, command=command_line())
    _keep(profile, as_json=as_json)


@click.command(name="calibrate")
@click.option("--from", "source", metavar="NAME", help="The profile to start from.")
@click.option(
    "--times",
    metavar="times.csv",
    type=PATH,
    help="Columns network,latency_ms: an arch.json or a MobileNet, and what it took.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of the networks that were timed; the profile's first unless said.",
)
@_name
@_overwrite
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

    A network of times.csv is an arch.json, as `profile networks` writes them, or
    mobilenet_v2[:WIDTH[:SIDE]], mobilenet_v3_small, mobilenet_v3_large, whose parts are measured
    first, which only the profile's own machine can; its time comes from the device, for one image.
    """
    if source is None or times is None or name is None:
        raise click.UsageError("say --from, --times and --name", ctx)
    _refuse(name, overwrite=overwrite)
    from mobilenas.latency.profile import find_profile
    from mobilenas.latency.transfer import read_times, transfer
    from mobilenas.pipeline.run_folder import command_line

    with _measuring(quiet) as reporter:
        profile = transfer(
            find_profile(source),
            read_times(times),
            name,
            precision=precision,
            command=command_line(),
            reporter=reporter,
        )
    _keep(profile, as_json=as_json)


def _refuse(name: str, *, overwrite: bool) -> None:
    from mobilenas.core.errors import MobileNASError
    from mobilenas.latency.profile import profile_path

    path = profile_path(name)
    if path.exists() and not overwrite:
        raise MobileNASError(f"{path} exists already; say --overwrite or another --name")


def _keep(profile: "Profile", *, as_json: bool) -> None:
    from mobilenas.latency.profile import profile_path, write_profile

    from .profiles import show_profile

    path = profile_path(profile.name)
    write_profile(profile, path)
    show_profile(profile, as_json=as_json)
    if not as_json:
        echo(f"Profile: {path}")
