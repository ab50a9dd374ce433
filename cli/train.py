"""`mobilenas train`: runs only the final training."""

import shlex
from pathlib import Path

import click

from .command import Command
from .options import output_options, run_argument
from .tensorboard import tensorboard_option
from .terminal import echo


@click.command(cls=Command, name="train")
@run_argument
@tensorboard_option
@output_options
def command(folder: Path, quiet: bool, as_json: bool, **_: object) -> None:
    """Train the network of RUN/arch.json, and write RUN/model.safetensors."""
    from .session import opened, working

    again = f"mobilenas train {shlex.quote(str(folder))}"
    with working(again, folder, quiet=quiet, many=True) as reporter:
        from mobilenas.pipeline.run_folder import open_run
        from mobilenas.pipeline.stages import WEIGHTS_FILE, train_stage

        record = train_stage(opened(lambda: open_run(folder, reporter), folder, reporter))
    from .render import show_json, show_table

    if as_json:
        show_json(record)
        return
    row = (
        f"{record.best_epoch} of {record.epochs}",
        f"{record.val_top1:.1f}",
        f"{record.params:,}",
        f"{record.seconds:.0f}",
    )
    show_table("Training", ("best epoch", "val top-1 %", "params", "seconds"), [row])
    echo(f"Weights: {folder / WEIGHTS_FILE}")
