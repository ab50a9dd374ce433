"""Networks that guess are named, and what to try is said."""

from dataclasses import replace

import pytest
from msgspec import structs

from mobilenas.baselines.chance import beats_chance_on_test, chance_alarms
from mobilenas.baselines.records import NetworkRecord
from mobilenas.data import ImageData
from mobilenas.report.table import summarize


def entry(name: str, top1: float, top1_fp32: float | None, data: ImageData) -> NetworkRecord:
    kind = "searched" if name == "searched" else "random"
    return NetworkRecord(
        name=name,
        kind=kind,
        seed=0,
        flops=1000,
        params=100,
        memory=500,
        predicted_ms=None,
        top1=top1,
        top1_fp32=top1_fp32,
        better_than_chance=beats_chance_on_test(top1, data),
        onnx="model.onnx",
        size_bytes=1000,
        latency_ms=0.1,
    )


# 30 test images of five classes: 9 right are no better than chance, 11 are
@pytest.mark.parametrize(("right", "better"), [(6, False), (9, False), (11, True), (30, True)])
def test_the_test_images_decide(tiny_images: ImageData, right: int, better: bool) -> None:
    assert beats_chance_on_test(100 * right / 30, tiny_images) == better


def test_of_unequal_classes_the_most_frequent_counts(tiny_images: ImageData) -> None:
    most = tiny_images.test.subset([0, 5, 10, 15, 20, 25, 1])
    unequal = replace(tiny_images, test=most)
    assert beats_chance_on_test(60.0, tiny_images)
    assert not beats_chance_on_test(600 / 7, unequal)


def test_networks_that_guess_are_named_once_with_what_to_try(tiny_images: ImageData) -> None:
    entries = [
        entry("searched", 20.0, 20.0, tiny_images),
        entry("random 1", 90.0, 90.0, tiny_images),
        entry("random 2", 10.0, 90.0, tiny_images),
    ]
    untrained, rounded = chance_alarms(entries, tiny_images)
    figures = "where guessing gets 20.0 % of 30 test images"
    assert untrained.startswith(f"No better than chance, {figures}: searched. ")
    assert "--epochs" in untrained
    assert rounded.startswith(f"No better than chance in INT8, {figures}, ")
    assert ": random 2. " in rounded and "--calibration" in rounded
    assert [row.chance for row in summarize(entries)] == [True, True]
    assert [row.chance for row in summarize(entries[:2])] == [True, False]


def test_nothing_is_said_of_others_or_of_older_releases(tiny_images: ImageData) -> None:
    known = entry("searched", 90.0, 90.0, tiny_images)
    older = structs.replace(entry("searched", 20.0, 20.0, tiny_images), better_than_chance=None)
    assert chance_alarms([known, older], tiny_images) == []
    assert [row.chance for row in summarize([known, older])] == [False]
