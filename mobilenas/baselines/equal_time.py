"""The best MobileNet, trained for as long as a search and what it found took together."""

from collections.abc import Mapping, Sequence
from typing import Any

KIND = "equal-time"
"""Its name and its kind in compare.json."""
FIELDS = ("network", "epochs", "recipe_epochs")
"""What compare.json says of it alone: which MobileNet it is, its epochs, those of all others."""
MOST_EPOCHS = 100_000
"""As many as a recipe can have."""


def best_mobilenet(entries: Sequence[Mapping[str, Any]], seed: int) -> Mapping[str, Any] | None:
    """Return the MobileNet with the best validation top-1 of a seed; None where there is none."""
    own = [e for e in entries if (e["kind"], e["seed"]) == ("mobilenet", seed)]
    return max(own, key=lambda entry: float(entry["val_top1"]), default=None)


def epochs_for(seconds: float, recipe_epochs: int, train_seconds: float) -> int:
    """Return how many epochs fill `seconds` where the recipe's took `train_seconds`.

    There are never fewer than the recipe's.
    """
    if not train_seconds:  # a training that no clock noticed
        return recipe_epochs
    filling = min(MOST_EPOCHS, recipe_epochs * seconds / train_seconds)
    return max(recipe_epochs, round(filling))


def epochs_told(entries: Sequence[Mapping[str, Any]]) -> str:
    """Say how long such networks were trained: `28 to 31 epochs, not 15`."""
    return f"{_range(entries)}, not {entries[0]['recipe_epochs']}"


def about(entries: Sequence[Mapping[str, Any]]) -> str:
    """Say which MobileNets these are, and how their epochs came about."""
    by_network: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_network.setdefault(entry["network"], []).append(entry)
    named = " and ".join(f"{network}, {_range(own)}" for network, own in by_network.items())
    return (
        f"{named}: the best MobileNet of each seed on validation images, trained for as long as "
        "search, finalists and final training took together. All other networks have "
        f"{entries[0]['recipe_epochs']} epochs."
    )


def _range(entries: Sequence[Mapping[str, Any]]) -> str:
    epochs = sorted(entry["epochs"] for entry in entries)
    return f"{' to '.join(dict.fromkeys(f'{number}' for number in (epochs[0], epochs[-1])))} epochs"
