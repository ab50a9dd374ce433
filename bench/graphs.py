"""Channel graphs of torchvision models: processor seconds of what a search does repeatedly.

    OMP_NUM_THREADS=1 python bench/graphs.py

The minimum of five. Exit status 1 where one exceeds its limit.
"""

import sys
import time
from collections.abc import Callable

from mobilenas.channel_graph import extract, load_model, resized, sizes
from mobilenas.channels.weight_transfer import changed

SIDE = 64
MAX_SECONDS = {"extract": 0.3, "resize": 2.0, "change": 2.0}
MODELS = {
    "extract": ("mobilenet_v2", "efficientnet_b0"),
    "resize": ("resnet34",),
    "change": ("resnet34",),
}


def work(name: str, model: str) -> Callable[[], object]:
    """Return what is timed."""
    net = load_model(f"torchvision:{model}", classes=10, image_size=SIDE)
    graph = extract(net, image_size=SIDE)
    smaller = {group: size * 3 // 4 for group, size in sizes(graph).items()}
    return {
        "extract": lambda: extract(net, image_size=SIDE),
        "resize": lambda: resized(net, graph, smaller),
        "change": lambda: changed(net, graph, smaller),
    }[name]


def quickest(run: Callable[[], object]) -> float:
    """Return processor seconds of the quickest of five."""
    taken = []
    for _ in range(5):
        begin = time.process_time()
        run()
        taken.append(time.process_time() - begin)
    return min(taken)


def main() -> int:
    """Print a line a workload."""
    late = 0
    for name, models in MODELS.items():
        for model in models:
            taken = quickest(work(name, model))
            late += taken > MAX_SECONDS[name]
            print(f"{name} {model}: {taken:.2f} s, at most {MAX_SECONDS[name]} s")
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main())
