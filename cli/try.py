"""`mobilenas try`: serves a page that classifies images with the networks of a run."""

import asyncio
from functools import partial
from pathlib import Path

import click

from mobilenas.core.settings import to_plain
from mobilenas.latency.settings import MeasureSettings
from mobilenas.web.settings import ServeSettings

from .command import Command
from .options import PATH, json_option, options_of, typed
from .serve import announce, check_extra
from .terminal import echo


@click.command(cls=Command, name="try")
@click.argument("folder", metavar="RUN", type=PATH)
@options_of(MeasureSettings, without=("provider", "rounds"))
@options_of(ServeSettings, without=("backend",))
@json_option
@click.pass_context
def command(ctx: click.Context, /, folder: Path, as_json: bool, **_: object) -> None:
    """Try the networks of a run in a browser: on files or the camera, with their latency there.

    mobilenas try RUN --host 0.0.0.0

    The page shows the float network, its INT8 file and the best MobileNet side by side. Its button
    adds the measurements to RUN/web.jsonl. Ctrl-C stops the server.
    """
    settings = ServeSettings(**typed(ctx, ServeSettings))
    threads = MeasureSettings(**typed(ctx, MeasureSettings)).threads
    check_extra()
    from mobilenas.web.trial import Trying

    trying = Trying(folder, settings, threads=threads)
    announce(trying.site, settings.host)
    asyncio.run(trying.serve(partial(echo, err=True)))
    if as_json:
        from .render import show_json

        show_json({"measurements": to_plain(trying.kept)})
    echo(f"Stopped: no request from a page in {settings.idle} s", err=True)
