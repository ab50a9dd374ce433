"""The options that commands share: the same name and meaning everywhere."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import COUNTING_RULE, parse_count, parse_time_ms

F = TypeVar("F", bound=Callable[..., Any])

# Written out because the library's own lists stand beside torch, which `--help` does not import;
# tests/cli/test_options.py holds these against them.
EFFORTS = ("quick", "standard", "full")
DEVICES = ("cpu", "cuda")
SPACES = ("mobile", "cell")
METHODS = ("darts", "pc-darts", "cpm", "adarts", "da2s", "mobilenas")
ATTENTIONS = ("se", "eca", "cbam")
EDGE_WEIGHTS = ("none", "softmax", "clipped")
ON_COLLAPSE = ("warn", "stop", "rollback")
PATHS = ("gumbel", "mixture", "single")
SAMPLERS = ("full", "random", "attention", "ranked")
ENTROPY_SCHEDULES = ("const", "linear", "log", "step")
CONSTRAINTS = ("lagrangian", "hinge", "penalty")
PRECISIONS = ("fp32", "int8")
ACTIVATIONS = ("hard_swish", "relu", "relu6")
POLICIES = ("searched", "on", "off")
MOBILENETS = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
FORMATS = ("onnx", "fp16", "int8", "ort")
OTHER_FORMATS = ("litert", "executorch")
TARGETS = ("cpu", "xnnpack", "qnn", "nnapi", "coreml")
INPUTS = ("float-nchw", "uint8-nhwc")
INT8_WEIGHTS = ("per-channel", "per-tensor")
CALIBRATIONS = ("minmax", "entropy", "percentile")
CORRECTIONS = ("equalize", "bias")


class NamedPath(click.Path):
    """A file or folder; an empty name is not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = NamedPath(path_type=Path)
"""The type of every option and argument that names a file or a folder."""


def size(text: str) -> int:
    """Read 500k, 1.5M or 2G; for click, as the type of an option."""
    try:
        return parse_count(text)
    except MobileNASError as error:
        raise click.BadParameter(str(error)) from error


def sizes(text: str) -> tuple[int, ...]:
    """Read sizes with commas between them."""
    return tuple(map(size, text.split(",")))


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not numbers as in 0.1,0.3,1") from error


def milliseconds(text: str) -> float:
    """Read 8ms, 0.5s or 900us; for click, as the type of an option."""
    try:
        return parse_time_ms(text)
    except MobileNASError as error:
        raise click.BadParameter(str(error)) from error


def mobilenets(text: str) -> tuple[str, ...]:
    """Read names with commas between them; `none` is the empty list."""
    names = () if text == "none" else tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in MOBILENETS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(MOBILENETS)}, none")
    return tuple(dict.fromkeys(names))


def listed(text: str) -> tuple[str, ...]:
    """Read names with commas between them; the library says which are known."""
    return tuple(part.strip() for part in text.split(","))


def _once(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    if len(values) > 1:
        raise click.BadParameter("it is given more than once", ctx, param)
    return values[0] if values else None


def _budget(*names: str, text: str) -> Callable[[F], F]:
    # `multiple` only so that a second one is noticed instead of winning silently
    return click.option(*names, type=size, multiple=True, callback=_once, metavar="SIZE", help=text)


def _choice(name: str, legal: Sequence[str], text: str) -> Callable[[F], F]:
    return click.option(name, type=click.Choice(legal), help=text)


def _count(name: str, least: int, text: str) -> Callable[[F], F]:
    return click.option(name, type=click.IntRange(min=least), metavar="N", help=text)


_FLOPS = _budget(
    "--flops",
    "--macs",
    "flops",
    text="Most FLOPs, such as 300k or 5M.",
)
_STRENGTH = click.option("--strength", type=float, metavar="X", help="lambda of hinge and penalty.")
_JOB = (
    click.option(
        "--data",
        metavar="DATA",
        help="digits (unless said), cifar10, cifar100 or a folder of images.",
    ),
    _FLOPS,
    _budget("--params", text="Most parameters, such as 500k."),
    _budget("--memory", text="Most bytes of activations alive at once, such as 2M."),
    click.option(
        "--latency",
        type=milliseconds,
        multiple=True,
        callback=_once,
        metavar="TIME",
        help="Most time for one image on --profile's device, such as 8ms.",
    ),
    click.option("--profile", metavar="NAME", help="Device profile; see `mobilenas profile`."),
    _choice("--precision", PRECISIONS, "What the device runs; fp32 unless said."),
    _choice("--effort", EFFORTS, "How much is trained; standard unless said."),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**31 - 1),
        metavar="N",
        help="Seed of search and training; 0 unless said.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Threads of torch [default: 1]; on idle cores more are faster from 64 pixels on.",
    ),
    _choice("--device", DEVICES, "Where networks are trained; cpu unless said."),
    _count("--image-size", 1, "Side in pixels; the images' own, or 224, unless said."),
    click.option("--flip/--no-flip", default=None, help="Mirror images in training."),
    click.option("--skip-bad-images", is_flag=True, help="Leave out images that cannot be read."),
    click.option("--download", is_flag=True, help="Fetch CIFAR where it is missing."),
    _count("--epochs", 1, "Epochs of the final training."),
    _count("--finalists", 0, "Archs compared by short training; 0 turns it off."),
    click.option(
        "--baselines",
        type=mobilenets,
        metavar="NAMES",
        help="MobileNets to compare with, with commas between them, or none; all unless said.",
    ),
    click.option(
        "--equal-time",
        is_flag=True,
        help="Train the best MobileNet for as long as search and final training took, too.",
    ),
    _count("--random", 0, "Random networks to compare with; 3 unless said."),
    _count("--seeds", 1, "Seeds of the comparison; 1 unless said."),
    click.option("--dynamic-batch", is_flag=True, help="Let the ONNX file take any batch."),
)

_SEARCH = (
    _count("--search-epochs", 1, "Epochs of the supernet."),
    _choice("--space", SPACES, "What can be found: mobile unless said."),
    _choice("--method", METHODS, "Preset of the parts below; see `mobilenas methods`."),
    _count("--warmup", 0, "First epochs of the supernet, which train weights only."),
    click.option(
        "--order", type=click.IntRange(1, 2), metavar="1|2", help="Order of the alphas' step."
    ),
    _choice("--paths", PATHS, "What a search step runs: all paths, softly drawn or not, or one."),
    _choice("--sampler", SAMPLERS, "Which channels enter a mixed operation."),
    _choice("--attention", ATTENTIONS, "How the sampler scores channels."),
    click.option("--keep", metavar="1/K", help="Share of the channels that enter, such as 1/4."),
    click.option("--temperature", metavar="A:B", help="Relaxation's start and end, as 1:0.1."),
    click.option("--entropy", type=float, metavar="X", help="Weight of the entropy loss."),
    _choice("--entropy-schedule", ENTROPY_SCHEDULES, "How that weight rises."),
    click.option(
        "--entropy-terms", metavar="TERMS", help="operations, edges, or both with a comma."
    ),
    _choice("--on-collapse", ON_COLLAPSE, "What an alarm does; warn unless said."),
    click.option(
        "--prior/--no-prior",
        default=None,
        help="Let earlier trained networks have a say in which are finalists.",
    ),
    click.option("--edges", metavar="K/N", help="Cells: edges kept, as 2/node or 3/14."),
    _choice("--edge-weights", EDGE_WEIGHTS, "Cells: how a node weighs its edges."),
    click.option("--none/--no-none", default=None, help="Cells: let edges do nothing in search."),
    _count("--layers", 1, "Cells of the networks; 8 unless said."),
    _count("--channels", 2, "Cells: first channels of the networks; by the budgets, or 16."),
    _count("--search-layers", 1, "Cells of the supernet; 8 unless said."),
    _count("--search-channels", 2, "Cells: first channels of the supernet; 16 unless said."),
    click.option("--auxiliary/--no-auxiliary", default=None, help="Cells: a second classifier."),
    click.option("--drop-path", type=float, metavar="P", help="Cells: chance to drop an edge."),
    _choice("--constraint", CONSTRAINTS, "How budgets enter the loss."),
    _STRENGTH,
    _choice(
        "--activation",
        ACTIVATIONS,
        "Activation of the blocks; hard_swish, for int8 relu, unless said.",
    ),
    _choice(
        "--squeeze",
        POLICIES,
        "Squeeze-excite; on unless said, under --latency and --params searched.",
    ),
    _choice(
        "--extra-depthwise",
        POLICIES,
        "A 3x3 depthwise convolution that blocks start with; searched unless said, with --profile "
        "off.",
    ),
    click.option(
        "--inherit",
        is_flag=True,
        default=None,
        help="Start what is found from the supernet's weights, and train it from scratch, too.",
    ),
    click.option(
        "--targets",
        type=listed,
        metavar="NAMES",
        help=f"Search only what runs whole on these, of {', '.join(TARGETS)} (qnn: Qualcomm; nnapi "
        "is deprecated by Android).",
    ),
    click.option("--rival", is_flag=True, help="Give random networks the search's time, too."),
    _count("--rank", 0, "Networks to measure the supernet's ranking on, 3 or more; 0 unless said."),
)


def _allow_models(ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> None:
    ctx.meta[ALLOWED_MODELS] = names
    if names:
        from mobilenas.channel_graph.models import allow_model

        for name in names:
            allow_model(name)


ALLOWED_MODELS = "mobilenas.allowed_models"
"""Where the context of a command has what --allow-model was given."""


allow_model_option: Callable[[Any], Any] = click.option(
    "--allow-model",
    "allowed_models",
    multiple=True,
    callback=_allow_models,
    expose_value=False,
    metavar="NAME",
    help="Run the code of package.module:factory where a file names it as its model.",
)
"""--allow-model: from a file alone nothing is imported."""

_FOLDER = (
    click.option("--out", metavar="RUN", type=PATH, help="The run folder to write."),
    click.option("--resume", is_flag=True, help="Go on with the run in --out."),
    click.option("--overwrite", is_flag=True, help="Replace the run in --out."),
    allow_model_option,
)

_OUTPUT = (
    click.option("--quiet", is_flag=True, help="Show no progress."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)

RULE = f"FLOPs: {COUNTING_RULE}."
"""Below the help of commands that take or print FLOPs."""


def _stacked(options: Sequence[Callable[[Any], Any]]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


request_options: Callable[[Any], Any] = _stacked((*_JOB, *_SEARCH))
"""Every field of `mobilenas.pipeline.request.Request`."""
job_options: Callable[[Any], Any] = _stacked(_JOB)
"""What a job needs to be told whatever is searched."""
swept_options: Callable[[Any], Any] = _stacked(
    [option for option in (*_JOB, *_SEARCH) if option not in (_FLOPS, _STRENGTH)]
)
"""All of these but --flops and --strength, of which a sweep has several."""
folder_options: Callable[[Any], Any] = _stacked(_FOLDER)
"""--out, --resume, --overwrite, --allow-model."""
output_options: Callable[[Any], Any] = _stacked(_OUTPUT)
"""--quiet, --json."""
json_option: Callable[[Any], Any] = _OUTPUT[1]
"""--json for commands that show no progress."""
run_argument: Callable[[Any], Any] = _stacked(
    (
        click.argument("folder", metavar="RUN", type=PATH),
        allow_model_option,
    )
)
"""The run folder of a command that goes on with one, and --allow-model."""
