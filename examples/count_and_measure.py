"""FLOPs, params and milliseconds of MobileNets at the side of your images.

python examples/count_and_measure.py --image-size 96 --classes 10
"""

import argparse
import tempfile
from pathlib import Path

import torch

import mobilenas as mn
from mobilenas.onnx.export import export_onnx
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import build


def main() -> None:
    """Print a line a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=96, help="side in pixels")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--width", type=float, default=0.5, help="width multiplier")
    options = parser.parse_args()
    torch.manual_seed(0)  # speed does not depend on weights

    for name, make in MOBILENETS.items():
        arch = make(width=options.width, image_size=options.image_size, classes=options.classes)
        counted = mn.count(arch)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            export_onnx(build(arch), path, image_size=options.image_size, channels=3, metadata={})
            measured = mn.measure(path)
        print(
            f"{name}: {counted.flops:,} FLOPs, {counted.params:,} params, "
            f"{measured.median_ms:.3f} ± {measured.interval_ms:.3f} ms"
        )


if __name__ == "__main__":
    main()
