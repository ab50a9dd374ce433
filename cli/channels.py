"""`mobilenas channels`: the channel sizes of any traceable model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from .options import PATH, RULE, folder_options, job_options, output_options

F = TypeVar("F", bound=Callable[..., Any])

# written out as those of options.py are
STARTS = ("model", "small")
SCHEDULES = ("annealed", "greedy")
METRICS = ("qc", "constant")
KEEP_WEIGHTS = ("svd", "magnitude", "fresh")
_OF_GROUPS = {"model", "image_size", "classes", "weights", "graph_only", "out", "as_json"}


def _choice(name: str, legal: tuple[str, ...], text: str) -> Callable[[F], F]:
    return click.option(name, type=click.Choice(legal), help=text)


@click.command(name="channels", epilog=RULE)
@click.option(
    "--model",
    metavar="MODEL",
    help="torchvision:NAME, package.module:factory, a run folder or an arch.json.",
)
@click.option(
    "--weights",
    type=PATH,
    metavar="FILE",
    help="Weights the model comes with, a safetensors file; a run folder brings its own.",
)
@click.option("--controls", is_flag=True, help="Train uniform, random, constant-metric sizes too.")
@click.option("--trials", type=click.IntRange(1), metavar="N", help="Changes of the sizes.")
@click.option("--trial-epochs", type=click.IntRange(1), metavar="N", help="Epochs of each trial.")
@_choice("--start", STARTS, "Proportions to start from: the model's (unless said), or all small.")
@_choice("--schedule", SCHEDULES, "annealed unless said; greedy never accepts a worse trial.")
@_choice("--metric", METRICS, "qc unless said; constant is the control.")
@click.option("--gamma", type=float, metavar="X", help="Momentum of the metric; 0.8 unless said.")
@click.option("--delta", type=float, metavar="X", help="How far the metric moves a size; 1.")
@_choice("--keep-weights", KEEP_WEIGHTS, "How weights are kept; svd unless said.")
@click.option("--distill", type=float, metavar="X", help="Weight of distillation; 1 unless said.")
@click.option("--distill-temperature", type=float, metavar="X", help="Of its logits; 2.")
@job_options
@click.option("--graph-only", is_flag=True, help="Print which sizes are tied; search nothing.")
@click.option(
    "--classes", type=click.IntRange(2, 65536), metavar="N", help="With --graph-only: classes."
)
@folder_options
@output_options
@click.pass_context
def command(
    ctx: click.Context, /, graph_only: bool, classes: int | None, out: Path | None, **how: Any
) -> int:
    """Search the channel sizes of a model under a budget, then train, export and compare.

    The model stays what it is but for its widths. Sizes that an addition, a depthwise convolution
    or the like makes equal are one group and change together. With --graph-only, --out is an
    .svg file.
    """
    if not graph_only:
        if classes is not None:
            raise click.UsageError("--classes goes with --graph-only: the images have classes", ctx)
        from mobilenas.pipeline.request_channels import ChannelsRequest

        from .session import whole_job

        return whole_job(ctx, "channels", ChannelsRequest)
    given = {
        name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if others := sorted(given - _OF_GROUPS):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise click.UsageError(f"{named}: not with --graph-only, which searches nothing", ctx)
    if how["model"] is None:
        raise click.UsageError("no model was given: say --model", ctx)
    from .channel_groups import show_groups

    names = ("model", "image_size", "weights", "as_json")
    show_groups(**{name: how[name] for name in names}, classes=classes, out=out)
    return 0
