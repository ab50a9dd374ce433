"""`mobilenas profile serve`: serves a page that measures the device that opens it."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenas.latency.settings import MeasureSettings, ProfileSettings
from mobilenas.web.settings import ServeSettings

from .command import Command
from .latency import keep, measuring, name_option, overwrite_option, refuse, spaces_of
from .options import PATH, option, options_of, output_options, typed
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.web.site import Site

_LOOPBACK = ("127.", "localhost", "::1")


def check_extra() -> None:
    """Raise unless the packages of mobilenas[web] are installed."""
    from mobilenas.core.errors import MobileNASError

    try:
        import aiohttp  # noqa: F401
        import segno  # noqa: F401
    except ImportError as error:
        raise MobileNASError(
            f"pages need the package {error.name}: pip install 'mobilenas[web]'"
        ) from error


def announce(site: "Site", host: str) -> None:
    """Print the URL, with a QR code for other devices."""
    echo(f"Open {site.url}", err=True)
    if host.startswith(_LOOPBACK):
        return
    import segno

    if sys.stderr.isatty():
        segno.make(site.url, micro=False).terminal(out=sys.stderr, compact=True)


@click.command(cls=Command, name="serve")
@options_of(ProfileSettings)
@option(
    "--kit",
    metavar="FOLDER",
    type=PATH,
    group="Measurement",
    help="Serve this kit, of `mobilenas profile kit`, instead of making one.",
)
@options_of(MeasureSettings, without=("provider",))
@option(
    "--device",
    metavar="NAME",
    default="",
    default_text="what the browser says",
    group="Measurement",
    help="Name of the device.",
)
@options_of(ServeSettings)
@name_option
@overwrite_option
@output_options
@click.pass_context
def serve(
    ctx: click.Context,
    /,
    kit: Path | None,
    device: str,
    name: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Measure the device that opens a page, such as a phone, in its browser.

    mobilenas profile serve --space mobile --image-size 224 --name pixel7-web --host 0.0.0.0

    The page times the models of a kit with onnxruntime-web, in WebAssembly or with `--backend
    webgpu` on the GPU. Every round is saved at once, so that reloading the page or repeating the
    command resumes.
    """
    if name is None:
        raise click.UsageError("missing option --name", ctx)
    of_space = typed(ctx, ProfileSettings)
    if kit and of_space:
        raise click.UsageError("options of a space do not go with --kit", ctx)
    settings = ServeSettings(**typed(ctx, ServeSettings))
    measured = MeasureSettings(**typed(ctx, MeasureSettings))
    refuse(name, overwrite=overwrite)
    check_extra()
    with measuring(quiet) as reporter:
        from mobilenas.pipeline.run_folder import command_line
        from mobilenas.web.profiling import Profiling, check_backend, kit_of
        from mobilenas.web.runtime import check_runtime

        requested = ProfileSettings(**of_space)
        check_backend(settings.backend, requested.precision, measured.threads)
        check_runtime(settings.backend)
        folder = kit or kit_of(
            spaces_of(ctx, requested),
            networks=requested.networks,
            seed=requested.seed,
            reporter=reporter,
        )
        profiling = Profiling(
            folder,
            settings,
            name=name,
            threads=measured.threads,
            rounds=measured.rounds,
            device=device,
            command=command_line(),
        )
    announce(profiling.site, settings.host)
    with measuring(quiet) as reporter:
        profile, measurement = asyncio.run(profiling.serve(reporter))
    keep(profile, as_json=as_json)
    measurement.forget()
