"""What a search is worth: its network beside random networks of the same budget, trained alike.

python examples/against_chance.py --data ./images --flops 1M --networks 5
"""

import argparse
from statistics import fmean

import mobilenas as mn


def main() -> None:
    """Train the searched network and random ones; print test top-1 of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="digits, or a folder of images")
    parser.add_argument("--flops", default="500k", help="maximum FLOPs")
    parser.add_argument("--networks", type=int, default=3, help="random networks")
    parser.add_argument("--epochs", type=int, help="of every training")
    options = parser.parse_args()

    data = mn.load_data(options.data)
    space = mn.mobile_space(data, flops=options.flops)
    found = mn.search(space, data, {"flops": options.flops}, epochs=options.epochs)

    drawn = mn.random_networks(space, {"flops": options.flops}, options.networks)

    def top1(arch: mn.Arch) -> float:
        return mn.evaluate(mn.train(arch, data, epochs=options.epochs)).top1

    others = [top1(arch) for arch in drawn]
    print(f"searched: {top1(found.arch):.1f} %")
    print(f"random: {fmean(others):.1f} % on average, {max(others):.1f} % the best")


if __name__ == "__main__":
    main()
