"""Warnings on networks of a comparison that are no better than chance."""

from collections.abc import Sequence

from mobilenas.baselines.records import Trained
from mobilenas.core.settings import counted
from mobilenas.data import ImageData, beats_chance, chance_top1


def beats_chance_on_test(top1: float, data: ImageData) -> bool:
    """Whether `top1` % of the test images is significantly better than chance."""
    return beats_chance(top1, data.test.labels, len(data.classes))


def chance_alarms(entries: Sequence[Trained], data: ImageData) -> list[str]:
    """Return warnings about networks that are no better than chance on the test images."""
    guessing = [entry for entry in entries if entry.better_than_chance is False]
    rounded = [entry.name for entry in guessing if _lost_by_rounding(entry, data)]
    untrained = [entry.name for entry in guessing if not _lost_by_rounding(entry, data)]
    chance = chance_top1(data.test.labels, len(data.classes))
    figures = f"where guessing gets {chance:.1f} % of {counted(len(data.test), 'test image')}"
    found = []
    if untrained:
        found.append(
            f"No better than chance, {figures}: {', '.join(dict.fromkeys(untrained))}. Comparing "
            "them is meaningless. Try more --epochs or --effort full, a larger "
            "--image-size or more images, and look at the labels."
        )
    if rounded:
        found.append(
            f"No better than chance in INT8, {figures}, though better in float32: "
            f"{', '.join(dict.fromkeys(rounded))}. Try `mobilenas export --formats int8` with "
            "another --calibration, --corrections or --qat-epochs."
        )
    return found


def _lost_by_rounding(entry: Trained, data: ImageData) -> bool:
    in_float = entry.top1_fp32
    return in_float is not None and beats_chance_on_test(in_float, data)
