import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.stats import ttest_rel

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.report.table import KINDS, differences, read_networks, summarize, verdict


def entry(kind: str, top1: float, *, name: str = "", seed: int = 0, **costs: Any) -> NetworkRecord:
    figures = {"flops": 300_000, "params": 5000, "size_bytes": 40_000, "latency_ms": 0.5}
    figures |= {"memory": 9000, "onnx": "export/model.onnx"}
    if kind == "equal-time":
        figures |= {"network": "mobilenet_v2 x0.2", "epochs": 31, "recipe_epochs": 15}
    named = {"name": name or kind, "kind": kind, "seed": seed, "top1": top1, "predicted_ms": None}
    return from_plain(NetworkRecord, named | figures | costs, "")


def plain(kind: str, **fields: Any) -> list[dict[str, Any]]:
    """A comparison of one network as compare.json has it."""
    found: list[dict[str, Any]] = to_plain([entry(kind, 1, **fields)])
    return found


def over_seeds(kind: str, *top1: float, name: str = "") -> list[NetworkRecord]:
    return [entry(kind, value, name=name, seed=seed) for seed, value in enumerate(top1)]


def test_rows_come_in_order_with_the_best_mobilenet_first() -> None:
    entries = [
        entry("mobilenet", 80, name="mobilenet_v2 x0.2"),
        entry("random", 70, name="random-1"),
        entry("mobilenet", 85, name="mobilenet_v3_small x0.1"),
        entry("random", 74, name="random-2"),
        entry("equal-time", 60),
        entry("random-search", 88),
        entry("scratch", 95),
        entry("searched", 90),
    ]
    assert [row.name for row in summarize(entries)] == [
        "searched",
        "scratch",
        "random-search",
        "random (2 networks)",
        "equal-time (31 epochs, not 15)",
        "mobilenet_v3_small x0.1",
        "mobilenet_v2 x0.2",
    ]


def test_costs_are_the_first_networks_except_where_those_differ() -> None:
    pairs = [(100, 3.0), (201, 4.0)]
    entries = [
        entry(kind, 50, seed=seed, flops=flops, params=flops, size_bytes=flops, latency_ms=ms)
        for kind in KINDS
        for seed, (flops, ms) in enumerate(pairs)
    ]
    rows = {row.kind: row for row in summarize(entries)}
    for kind in ("searched", "mobilenet"):
        assert (rows[kind].flops, rows[kind].params, rows[kind].latency_ms) == (100, 100, 3.0)
    for kind in ("random", "random-search", "equal-time"):
        assert (rows[kind].flops, rows[kind].size_bytes, rows[kind].latency_ms) == (150, 150, 3.5)


def test_one_network_has_no_spread() -> None:
    (row,) = summarize([entry("random", 61.5)])
    assert (row.name, row.top1_std, row.top1_mean) == ("random (1 network)", None, 61.5)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(MobileNASError, match="kind is 'guess'"):
        summarize([entry("guess", 1)])


percents = st.floats(0, 100, allow_subnormal=False)


@given(st.lists(st.tuples(st.sampled_from(KINDS), percents), min_size=1, max_size=30))
def test_every_network_is_in_one_row_with_its_statistics(given: list[tuple[str, float]]) -> None:
    rows = summarize([entry(kind, top1) for kind, top1 in given])
    assert [row.kind for row in rows] == [kind for kind in KINDS if kind in dict(given)]
    for row in rows:
        top1 = [value for kind, value in given if kind == row.kind]
        assert row.networks == len(top1)
        assert row.top1_best == max(top1)
        assert row.top1_mean == pytest.approx(sum(top1) / len(top1))
        if len(top1) == 1:
            assert row.top1_std is None
        else:
            assert row.top1_std == pytest.approx(statistics.stdev(top1))


def test_what_only_guesses_is_ahead_of_nobody() -> None:
    entries = [entry("searched", 3.3, better_than_chance=False), entry("mobilenet", 3.1)]
    sentence = verdict(entries)
    assert "3.30 % top-1, no better than chance" in sentence
    assert "ahead" not in sentence and "MobileNet" not in sentence


def test_one_seed_is_said_plainly() -> None:
    entries = [
        entry("searched", 92.5, flops=293_418),
        entry("mobilenet", 90.0, name="mobilenet_v2 x0.2"),
        entry("mobilenet", 91.0, name="mobilenet_v3_small x0.1"),
        entry("random", 93.0),
        entry("random", 94.0),
        entry("random-search", 92.5),
        entry("equal-time", 94.5),
    ]
    assert verdict(entries) == (
        "The searched network (293.4k FLOPs) reaches 92.50 % top-1: "
        "ahead of the best MobileNet (mobilenet_v3_small x0.1) by 1.50 points, one seed; "
        "behind the mean of 2 random networks by 1.00 points, one seed; "
        "level with the random search given the search's time, one seed; "
        "behind the best MobileNet given the search's time by 2.00 points, one seed."
    )


def test_better_is_said_where_the_paired_test_shows_it_and_with_what() -> None:
    entries = over_seeds("searched", 92, 93, 94) + over_seeds(
        "mobilenet", 90, 90.5, 91, name="mobilenet"
    )
    p = ttest_rel((92, 93, 94), (90, 90.5, 91)).pvalue
    assert verdict(entries) == (
        "The searched networks (300k FLOPs) reach 93.00 ± 1.00 % top-1 over 3 seeds: "
        "better than the best MobileNet (mobilenet), "
        f"+2.50 ± 0.50 points over 3 seeds (p = {p:.2g})."
    )
    (row,) = differences(entries)
    assert to_plain(row) == {
        "against": "the best MobileNet (mobilenet)",
        "mean": 2.5,
        "sd": 0.5,
        "seeds": 3,
        "p": pytest.approx(p),
        "verdict": "better",
    }


@pytest.mark.parametrize(
    "others",
    [
        (91.9, 92, 93.5),  # behind in every seed, within the spread
        (80, 80, 94.5),  # behind by far, but not in every seed
        (92, 93, 94),  # level
        (90, 91, 92),  # behind by the same in every seed: nothing says how much is chance
    ],
)
def test_less_than_that_is_not_called_better(others: tuple[float, ...]) -> None:
    said = verdict(over_seeds("searched", 92, 93, 94) + over_seeds("random", *others))
    assert "better" not in said
    assert "no difference shown to the mean of 3 random networks" in said


def test_two_seeds_are_too_few_to_claim_anything() -> None:
    said = verdict(over_seeds("searched", 70, 70.5) + over_seeds("random", 80, 80.2))
    assert said.endswith(
        "no difference shown to the mean of 2 random networks, "
        "-9.85 ± 0.21 points over 2 seeds (a test needs 3)."
    )


def test_worse_is_said_too() -> None:
    said = verdict(
        over_seeds("searched", 70, 70.5, 71) + over_seeds("random-search", 80, 80.2, 80.9)
    )
    assert "worse than the random search given the search's time, -9.87 ± 0.15 points" in said


def test_the_mobilenet_of_equal_time_is_a_baseline_of_its_own() -> None:
    entries = over_seeds("searched", 70, 70.5, 71) + over_seeds(
        "mobilenet", 60, 60, 61, name="mobilenet"
    )
    entries += over_seeds("equal-time", 80, 80.2, 80.9)
    assert [row.against for row in differences(entries)] == [
        "the best MobileNet (mobilenet)",
        "the best MobileNet given the search's time",
    ]
    said = verdict(entries)
    assert "worse than the best MobileNet given the search's time, -9.87 ± 0.15 points" in said
    without = [one for one in entries if one.kind != "equal-time"]
    assert said.startswith(verdict(without).removesuffix("."))


def test_its_row_says_which_mobilenets_it_has_and_how_long_they_were_trained() -> None:
    entries = over_seeds("equal-time", 80, 81, 82)
    entries[1] = replace(entries[1], network="mobilenet_v3_small x0.11 late", epochs=28)
    entries[2] = replace(entries[2], epochs=33)
    (row,) = summarize(entries)
    assert (row.name, row.networks) == ("equal-time (28 to 33 epochs, not 15)", 3)
    assert row.note.startswith(
        "equal-time (28 to 33 epochs, not 15) is mobilenet_v2 x0.2, 31 to 33 epochs and "
        "mobilenet_v3_small x0.11 late, 28 epochs: the best MobileNet of each seed on validation"
    )
    assert row.note.endswith("All other networks have 15 epochs.")
    assert summarize([entry("random-search", 1)])[0].note == ""


def test_a_row_says_in_which_runs_its_networks_were_trained() -> None:
    entries = [entry("mobilenet", 1), entry("mobilenet", 2)]
    assert summarize(entries)[0].note == ""
    entries = [replace(entry, trained_in=run) for entry, run in zip(entries, "ba", strict=True)]
    assert summarize(entries)[0].note == f"{entries[0].name}: trained in a and b."
    entries[0] = replace(entries[0], trained_in=None)
    assert summarize(entries)[0].note == f"{entries[0].name}: 1 of 2 trained in a."


def test_the_best_mobilenet_is_one_network_over_all_seeds() -> None:
    entries = over_seeds("searched", 90, 90, 90)
    entries += over_seeds("mobilenet", 80, 91, 82, name="mobilenet_a")
    entries += over_seeds("mobilenet", 85, 84, 86, name="mobilenet_b")
    entries += over_seeds("mobilenet", 99, name="of one seed")
    assert "better than the best MobileNet (mobilenet_b), +5.00 ± 1.00 points" in verdict(entries)


def test_a_baseline_that_is_no_mobilenet_is_not_called_one() -> None:
    entries = over_seeds("searched", 90) + over_seeds("mobilenet", 80, name="plain x0.5")
    assert "ahead of the best baseline (plain x0.5)" in verdict(entries)


def test_only_seeds_with_a_baseline_count() -> None:
    two = verdict(over_seeds("searched", 92, 92, 92) + over_seeds("random", 50, 51))
    assert (
        "no difference shown to the mean of 2 random networks, +41.50 ± 0.71 points over 2" in two
    )
    one = verdict(over_seeds("searched", 92, 92, 92) + over_seeds("random", 50))
    assert "ahead of one random network by 42.00 points, one seed" in one


def test_without_anything_to_compare_nothing_is_claimed() -> None:
    assert verdict([]) == "The comparison holds no searched network."
    assert verdict([entry("searched", 90)]).endswith(
        "90.00 % top-1: there is nothing to compare it with."
    )
    stranger = [entry("searched", 90), entry("random", 80, seed=7)]
    assert "not compared with one random network, which shares no seed with it" in verdict(stranger)
    assert differences(stranger) == []


@given(st.lists(st.tuples(percents, percents), min_size=1, max_size=6))
def test_the_word_better_keeps_its_promise(pairs: list[tuple[float, float]]) -> None:
    found, others = zip(*pairs, strict=True)
    said = verdict(over_seeds("searched", *found) + over_seeds("mobilenet", *others))
    assert said.count(".") == len(re.findall(r"\d\.\d", said)) + 1  # one sentence
    spread = statistics.stdev(a - b for a, b in pairs) if len(pairs) > 2 else 0.0
    promised = spread > 1e-9 and ttest_rel(found, others).pvalue < 0.05
    assert ("better" in said) == (promised and sum(found) > sum(others))


def test_several_runs_come_one_after_the_other_and_external_files_last() -> None:
    entries = [
        replace(one, run=run)
        for run in ("b", "a")
        for one in (entry("mobilenet", 80, name="mobilenet"), entry("searched", 90))
    ]
    file = entry("external", 99, name="x.onnx", flops=None, params=None)
    rows = summarize([file, *entries])
    assert [(row.run, row.kind) for row in rows] == [
        ("b", "searched"),
        ("b", "mobilenet"),
        ("a", "searched"),
        ("a", "mobilenet"),
        (None, "external"),
    ]
    assert (rows[-1].name, rows[-1].flops, rows[-1].params) == ("x.onnx", None, None)


def test_an_external_file_is_no_baseline() -> None:
    file = entry("external", 99, name="x.onnx")
    assert verdict([entry("searched", 90), file]) == verdict([entry("searched", 90)])


def test_compare_json_is_read_back(tmp_path: Path) -> None:
    entries = over_seeds("searched", 92, 93)
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(to_plain(entries)), encoding="utf-8")
    assert read_networks(path) == entries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is not JSON"),
        ("{}", "it must hold a list"),
        (None, "does not exist"),
        ("[3]", r"networks\[0\] is 3; it must be an object"),
        (json.dumps([*plain("searched"), {"name": "x"}]), r"networks\[1\] lacks 'kind'"),
        (json.dumps(plain("random")), "holds no searched network"),
        (json.dumps(plain("searched", name=" ")), r"networks\[0\]\.name is ' '"),
        (
            json.dumps([*plain("searched"), {**plain("searched")[0], "kind": "equal-time"}]),
            r"networks\[1\]\.network is None",
        ),
    ],
)
def test_a_compare_json_of_another_form_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "compare.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(FileError, match=message) as caught:
        read_networks(path)
    assert str(path) in str(caught.value)


def test_the_same_network_from_scratch_is_a_baseline() -> None:
    entries = [entry("searched", 80.0), entry("scratch", 78.5)]
    assert verdict(entries).endswith(
        "80.00 % top-1: ahead of the same network from scratch by 1.50 points, one seed."
    )
    seeds = over_seeds("searched", 82, 83, 84) + over_seeds("scratch", 80, 81.1, 81.9)
    assert "better than the same network from scratch, +2.00 ± 0.10 points" in verdict(seeds)
    notes = [row.note for row in summarize(entries)]
    assert notes[0] == "" and notes[1].startswith(
        "scratch is the searched network from scratch; searched"
    )


def test_controls_of_channel_sizes_are_baselines_too() -> None:
    told = verdict([entry("searched", 80.0), entry("uniform", 78.0), entry("constant", 81.0)])
    assert "uniform sizes" in told and "sizes by a constant metric" in told
    assert "behind the model at its own sizes by 4.00 points" in verdict(
        [entry("searched", 80.0), entry("unchanged", 84.0)]
    )
