"""From images and a FLOPs budget to files for a phone.

python examples/search_and_export.py --data ./images --flops 2M --out ./files
"""

import argparse
from pathlib import Path

import mobilenas as mn


def main() -> None:
    """Search, train, export; print what each file costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="digits, or a folder of images")
    parser.add_argument("--flops", default="500k", help="maximum FLOPs")
    parser.add_argument("--effort", default="quick", choices=("quick", "standard", "full"))
    parser.add_argument("--epochs", type=int, help="of the final training, instead of the effort's")
    parser.add_argument("--out", type=Path, default=Path("files"))
    options = parser.parse_args()

    data = mn.load_data(options.data)
    space = mn.mobile_space(data, flops=options.flops)
    found = mn.search(
        space, data, {"flops": options.flops}, effort=options.effort, epochs=options.epochs
    )
    print(f"searched: {found.costs['flops']:,.0f} FLOPs, {found.costs['params']:,.0f} params")

    model = mn.train(found.arch, data, effort=options.effort, epochs=options.epochs)
    print(f"trained {model.epochs} epochs: {mn.evaluate(model).top1:.1f} % of the test images")

    options.out.mkdir(parents=True, exist_ok=True)
    files = mn.export(model, options.out / "model.onnx", formats=["onnx", "int8"])
    for name, path in files.items():
        print(f"{name}: {path}, {path.stat().st_size:,} bytes, {mn.measure(path).median_ms:.3f} ms")


if __name__ == "__main__":
    main()
