"""`mobilenas channels`: searches the channel sizes of any traceable model."""

from pathlib import Path

import click
from click.core import ParameterSource

from mobilenas.core.setting import settings_of
from mobilenas.pipeline.request_channels import ChannelsRequest
from mobilenas.search.parts import SearchParts
from mobilenas.spaces.cell.settings import CellOptions

from .command import Command
from .options import RULE, folder_options, option, options_of, output_options
from .tensorboard import tensorboard_option

_OF_GROUPS = {"model", "image_size", "classes", "weights", "graph_only", "out", "as_json"}
_NOT_HERE = {one.name for kind in (SearchParts, CellOptions) for one in settings_of(kind)} | {
    *("method", "search_epochs", "targets", "activation", "squeeze", "extra_depthwise"),
    *("operations", "inherit", "random_search", "rank", "pretrained", "from_scratch"),
    "stage_widths",
}


@click.command(cls=Command, name="channels", epilog=RULE)
@options_of(ChannelsRequest, without=_NOT_HERE, hidden=("memory",))  # an error, with a reason
@option("--graph-only", is_flag=True, help="Print which sizes are tied, without a search.")
@option("--classes", type=click.IntRange(2, 65536), metavar="N", help="Classes, for --graph-only.")
@folder_options
@tensorboard_option
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    graph_only: bool,
    model: str | None,
    image_size: int | None,
    classes: int | None,
    weights: Path | None,
    out: Path | None,
    as_json: bool,
    **_: object,
) -> int:
    """Search the channel sizes of a model under a budget, then train, export and compare.

    mobilenas channels --model torchvision:resnet18 --data ./photos --flops 500M --out RUN

    Only its channel sizes change. Sizes that an addition or a depthwise convolution ties form one
    group and change together. With --graph-only, --out is an .svg file.
    """
    if not graph_only:
        if classes is not None:
            raise click.UsageError("--classes goes with --graph-only: the images have classes", ctx)
        from .session import whole_job

        return whole_job(ctx, "channels", ChannelsRequest)
    given = {
        name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if others := sorted(given - _OF_GROUPS):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise click.UsageError(f"--graph-only searches nothing, so it excludes {named}", ctx)
    if not model:
        raise click.UsageError("missing option --model", ctx)
    from .channel_groups import show_groups

    show_groups(
        model, image_size=image_size, classes=classes, weights=weights, out=out, as_json=as_json
    )
    return 0
