"""The best MobileNet, trained for as long as search and final training took together."""

from collections.abc import Sequence

from mobilenas.baselines.records import Trained

KIND = "equal-time"
"""Its name and kind in compare.json."""
MAX_EPOCHS = 100_000
"""The maximum of a recipe."""


def best_mobilenet(entries: Sequence[Trained], seed: int) -> Trained | None:
    """Return the MobileNet with the best validation top-1 of a seed; None if there is none."""
    own = [e for e in entries if (e.kind, e.seed) == ("mobilenet", seed)]
    return max(own, key=lambda entry: entry.val_top1 or 0.0, default=None)


def epochs_for(seconds: float, recipe_epochs: int, train_seconds: float) -> int:
    """Return how many epochs fit in `seconds`, if the recipe's took `train_seconds`.

    At least the recipe's.
    """
    if not train_seconds:  # too short for the clock
        return recipe_epochs
    filling = min(MAX_EPOCHS, recipe_epochs * seconds / train_seconds)
    return max(recipe_epochs, round(filling))


def epochs_text(entries: Sequence[Trained]) -> str:
    """Format the epochs of these networks: `28 to 31 epochs, not 15`."""
    return f"{_range(entries)}, not {entries[0].recipe_epochs}"


def about(entries: Sequence[Trained]) -> str:
    """Describe these MobileNets, and how their numbers of epochs were chosen."""
    by_network: dict[str, list[Trained]] = {}
    for entry in entries:
        by_network.setdefault(entry.network or "", []).append(entry)
    named = " and ".join(f"{network}, {_range(own)}" for network, own in by_network.items())
    return (
        f"{named}: the best MobileNet of each seed on validation images, trained for as long as "
        "search, finalists and final training took together. All other networks have "
        f"{entries[0].recipe_epochs} epochs."
    )


def _range(entries: Sequence[Trained]) -> str:
    epochs = sorted(entry.epochs or 0 for entry in entries)
    return f"{' to '.join(dict.fromkeys(f'{number}' for number in (epochs[0], epochs[-1])))} epochs"
