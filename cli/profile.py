"""`mobilenas profile`: costs of networks, and their latency on devices."""

from typing import TYPE_CHECKING, Any, get_args

import click

from mobilenas.core.settings import COUNTING_RULE
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.mobile.settings import MobileNet

from .command import Command
from .latency import calibrate, import_, kit, latency
from .options import RULE, allow_model_option, json_option, option
from .profiles import check, list_, remove, show, suggest
from .renamed import renamed_command
from .serve import serve

if TYPE_CHECKING:
    from mobilenas.pipeline.layers import Counted

MOBILENETS = get_args(MobileNet)


def width(text: str) -> float:
    """Parse a width multiplier; the type of an option."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 10:  # also true for NaN
        raise click.BadParameter(f"{text!r} is not a number between 0.01 and 10")
    return value


class Profiles(click.Group):
    """Also accepts deprecated names of commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command by the first word."""
        return super().resolve_command(ctx, [renamed_command(args[0]), *args[1:]])


@click.group(name="profile", cls=Profiles, no_args_is_help=False)
def command() -> None:
    """Count what a network costs; measure how long it takes, here or on another device."""


@command.command(cls=Command, name="flops", epilog=RULE)
@click.argument("target")
@option(
    "--width", type=width, metavar="X", default_text="1", help="Width multiplier of a MobileNet."
)
@option(
    "--image-size",
    type=click.IntRange(4, 4096),
    metavar="N",
    default_text="224, for CIFAR 32",
    help="Side of the images of NAME in pixels.",
)
@option(
    "--classes",
    type=click.IntRange(2, 65536),
    metavar="N",
    default_text="1000, for CIFAR 10",
    help="Classes of NAME; a factory chooses its own.",
)
@allow_model_option
@json_option
@click.pass_context
def flops(ctx: click.Context, /, target: str, as_json: bool, **shape: Any) -> None:
    """Count FLOPs and parameters of TARGET.

    TARGET: the NAME of a MobileNet (mobilenet_v1, mobilenet_v2, mobilenet_v3_small,
    mobilenet_v3_large, mobilenet_v4_conv_small), efficientnet_lite0, the NAME of a published cell
    network (darts_v2, pc_darts_cifar, pc_darts_imagenet), torchvision:NAME, a model of your own as
    package.module:factory, an arch.json, a model.onnx, or a run folder.
    """
    given = {name: value for name, value in shape.items() if value is not None}
    if given and target not in (*MOBILENETS, *CELL_NETWORKS) and ":" not in target:
        raise click.UsageError("--width, --image-size and --classes go with a NAME only", ctx)
    if "width" in given and target not in MOBILENETS:
        raise click.UsageError("--width goes with a MobileNet only", ctx)
    from mobilenas.pipeline.layers import count

    counted = count(target, **given)
    if as_json:
        from .render import show_json

        show_json(vars(counted) | {"counting_rule": COUNTING_RULE})
        return
    _show(counted)


def _show(counted: "Counted") -> None:
    from .render import show_rule, show_table

    rows = [
        (
            layer.name,
            "x".join(map(str, layer.out_shape)),
            f"{layer.flops:,}",
            "-" if layer.fvcore_flops is None else f"{layer.fvcore_flops:,}",
            f"{layer.params:,}",
        )
        for layer in counted.layers
    ]
    fvcore = "-" if counted.fvcore_flops is None else f"{counted.fvcore_flops:,}"
    rows.append(("total", "", f"{counted.flops:,}", fvcore, f"{counted.params:,}"))
    show_table(counted.name, ("layer", "output", "FLOPs", "fvcore", "params"), rows)
    show_rule()


for part in (latency, list_, show, check, kit, import_, serve, suggest, calibrate, remove):
    command.add_command(part)
