"""Channel sizes by other tools: Torch-Pruning's magnitude and NVIDIA modelopt's FastNAS.

    pip install -r bench/requirements-pruners.txt
    python bench/pruners.py --model bench.nets:resnet8 --data glyphs --image-size 16 --flops 1564000

For each seed the model trains at its own sizes by the recipe of `mobilenas channels`, and each
tool cuts it to the budget, with sizes in multiples of 8. What is compared are the sizes found:
trained from scratch, by the same recipe and seed as the result of `mobilenas channels`; test images
are looked at once. The tools' own way, to go on from the cut weights, is not measured. Writes a
line a network to --out.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mobilenas.channels.start import base_of
from mobilenas.core.progress import NullReporter
from mobilenas.data import DataSettings, ImageData, batches, load_data
from mobilenas.latency.measured import Failed
from mobilenas.latency.meter import measure
from mobilenas.onnx.export import export_onnx
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.channels.space import ChannelsSpace
from mobilenas.train import Recipe, Trainer, evaluate

STEPS = 100


def torch_pruning(model: nn.Module, data: ImageData, flops: float) -> nn.Module:
    """Cut by magnitude over all layers, at the smallest ratio with which the budget holds."""
    import torch_pruning as tp

    side = data.image_size
    for step in range(1, STEPS):
        cut = copy.deepcopy(model)
        # one cut: in many small ones rounding to 8 leaves nothing to cut
        tp.pruner.MagnitudePruner(
            cut,
            torch.rand(1, 3, side, side),
            importance=tp.importance.MagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=step / STEPS,
            round_to=8,
            ignored_layers=[m for m in cut.modules() if isinstance(m, nn.Linear)],
        ).step()
        if sum(count_fvcore(cut, side, 3).values()) <= flops:
            return cut
    raise SystemExit("torch-pruning: the budget was not reached")


def fastnas(model: nn.Module, data: ImageData, flops: float) -> nn.Module:
    """Search sub-networks of the trained model, scored on validation images."""
    import modelopt.torch.prune as mtp

    side = data.image_size

    def score(network: nn.Module) -> float:
        return evaluate(network, data.val, data).top1

    rules = mtp.fastnas.FastNASConfig().model_dump(by_alias=True)
    for rule in rules.values():
        for divisor in ("channel_divisor", "feature_divisor"):
            if divisor in rule["*"]:
                rule["*"][divisor] = 8
    with tempfile.TemporaryDirectory() as folder:
        pruned, _ = mtp.prune(
            model,
            mode=[("fastnas", rules)],
            constraints={"flops": 2 * flops},  # a multiply-add is two there
            dummy_input=torch.rand(1, 3, side, side),
            config={
                "data_loader": list(batches(data.train, data, batch_size=128, seed=None))[:60],
                "score_func": score,
                "checkpoint": str(Path(folder) / "search.pt"),
            },
        )
    found: nn.Module = pruned
    return found


TOOLS: dict[str, Callable[[nn.Module, ImageData, float], nn.Module]] = {
    "torch-pruning": torch_pruning,
    "fastnas": fastnas,
}


def latency_ms(model: nn.Module, data: ImageData) -> float:
    """Median time of one image in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, image_size=data.image_size, channels=3, metadata={})
        (time_,) = measure({"model": path}).values()
    if isinstance(time_, Failed):
        raise SystemExit(time_.reason)
    return time_.median_ms


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--flops", type=float, required=True)
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("pruners.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(
        DataSettings(source=options.data, image_size=options.image_size), NullReporter()
    )
    space = ChannelsSpace(base=base_of(options.model, data))
    recipe = Recipe(epochs=options.epochs)

    def trained(sizes: dict[str, int], seed: int) -> Trainer:
        trainer = Trainer(space.arch(sizes), data, recipe, seed=seed)
        for _ in range(recipe.epochs):
            trainer.run_epoch()
        return trainer

    for seed in range(options.seeds):
        whole: Any = trained(space.start(), seed).model
        for tool in options.tools.split(","):
            began = time.process_time()
            given = copy.deepcopy(whole.model).requires_grad_(True)
            given.to(memory_format=torch.contiguous_format)  # fastnas takes no other
            cut = TOOLS[tool](given, data, options.flops)
            seconds = time.process_time() - began
            sizes = {name: len(cut.get_parameter(f"{name}.weight")) for name in space.start()}
            model = trained(sizes, seed).model
            row = {
                "tool": tool,
                "seed": seed,
                "sizes": sizes,
                "flops": space.base.graph.flops(sizes),
                "asked": options.flops,
                "top1": evaluate(model, data.test, data).top1,
                "latency_ms": latency_ms(model, data),
                "search_seconds": seconds,
            }
            print(json.dumps(row, allow_nan=False), flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
