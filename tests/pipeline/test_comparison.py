"""Several runs side by side: what must be alike, what is measured together, what is kept."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mobilenas.baselines.networks import BaselineSettings
from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json, read_jsonl, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.latency.measured import Measured
from mobilenas.onnx.export import read_props
from mobilenas.pipeline import baselines, comparison, deployment
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.comparison import (
    check_alike,
    check_out,
    compare,
    side_by_side,
    write_comparison,
)
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import Run, open_run
from mobilenas.pipeline.stages import compare_stage
from mobilenas.pipeline.starting import start
from mobilenas.report.table import read_networks

ASKED: dict[str, Any] = {"data": "digits", "flops": 300_000, "epochs": 2, "baselines": []}


def begin(folder: Path, **asked: Any) -> Run:
    return start(folder, Request(**ASKED | asked), command="test", reporter=NullReporter())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has only begun."""
    return begin(tmp_path_factory.mktemp("runs") / "first", seeds=3)


@pytest.fixture
def second(first: Run, tmp_path: Path) -> Run:
    """The same in another folder."""
    return open_run(Path(shutil.copytree(first.folder, tmp_path / "second")), NullReporter())


def test_runs_of_one_kind_are_alike_whatever_was_searched(first: Run, tmp_path: Path) -> None:
    other = begin(tmp_path / "b", flops=500_000, seed=7, seeds=2, method="pc-darts", random=0)
    check_alike([first, other])
    check_alike([first])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"epochs": 3}, "they differ in epochs (2 and 3)"),
        ({"image_size": 12}, "image_size (8 and 12)"),
        ({"flip": True}, "flip (False and True)"),
        ({"precision": "int8"}, "precision (fp32 and int8)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_differs_is_named(
    first: Run, tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(MobileNASError) as caught:
        check_alike([first, begin(tmp_path / "b", **asked)])
    assert str(caught.value).startswith(f"{first.folder} and {tmp_path}/b cannot be compared: ")
    assert message in str(caught.value)


def test_other_images_are_named_without_their_fingerprints(first: Run, tmp_path: Path) -> None:
    source = random.Random(0)
    for label in "xy":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            image = Image.new("L", (8, 8), source.randrange(256))
            image.save(tmp_path / "images" / label / f"{number}.png")
    other = begin(tmp_path / "b", data=str(tmp_path / "images"))
    with pytest.raises(MobileNASError, match=r"they differ in images, classes$"):
        check_alike([first, other])


def test_a_run_is_given_once(first: Run) -> None:
    with pytest.raises(MobileNASError, match="is given more than once"):
        check_alike([first, open_run(first.folder / "../first", NullReporter())])


def test_recipes_of_the_mobilenets_must_be_equal_and_those_of_one_space(
    first: Run, second: Run
) -> None:
    usual = first.settings.recipe
    second.settings = replace(
        first.settings, recipe=replace(usual, learning_rate=0.01), scratch_recipe=usual
    )
    with pytest.raises(MobileNASError, match=r"differ in learning_rate \(.* and 0\.01\)$"):
        check_alike([first, second])
    second.settings = replace(second.settings, space="cell")
    check_alike([first, second])
    second.settings = replace(second.settings, scratch_recipe=None)
    with pytest.raises(MobileNASError, match=r"differ in learning_rate \(.* and 0\.01\)$"):
        check_alike([first, second])


def test_a_run_json_without_its_images_is_named(second: Run) -> None:
    record = read_json(second.folder / "run.json")
    write_json(second.folder / "run.json", record | {"data": {"source": "digits"}})
    with pytest.raises(FileError, match=r"second/run\.json: data lacks 'classes'"):
        check_alike([second])


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (None, None, None),
        (None, 9, ((), 9)),
        ((), None, ((), 0)),
        (("mobilenet_v2",), None, (("mobilenet_v2",), 0)),
        (("mobilenet_v2", "random"), None, (("mobilenet_v2",), 3)),
        (("random",), 5, ((), 5)),
    ],
)
def test_what_is_asked_for(
    first: Run, names: Any, count: int | None, expected: tuple[Any, int] | None
) -> None:
    found = comparison._baselines(first, names, count)
    wanted = expected and BaselineSettings(
        mobilenets=expected[0], random=expected[1], random_search=False, equal_time=False
    )
    assert found == wanted


def test_what_cannot_be_asked_for(first: Run) -> None:
    with pytest.raises(MobileNASError, match="--random 4 needs `random` in --baselines"):
        comparison._baselines(first, ("mobilenet_v2",), 4)
    with pytest.raises(MobileNASError, match="baseline is 'resnet'"):
        comparison._baselines(first, ("resnet",), None)


def entry(kind: str, top1: float, seed: int, flops: int) -> NetworkRecord:
    return NetworkRecord(
        name=kind,
        kind=kind,
        seed=seed,
        flops=flops,
        params=100,
        memory=1000,
        predicted_ms=None,
        top1=top1,
        onnx=f"compare/{kind}-{seed}.onnx",
        size_bytes=9,
        latency_ms=99.0,
        latency_iqr_ms=9.0,
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """No training and no timing: made-up networks, and what was timed together."""
    timed: list[Path] = []

    def compared(run: Run, *asked: Any) -> tuple[list[NetworkRecord], Any]:
        base, flops = (80, 300_000) if run.folder.name == "first" else (82, 310_000)
        found = [entry("searched", base + [0, 0.5, 1.1][seed], seed, flops) for seed in range(3)]
        return [*found, entry("random", 70, 0, flops)], SimpleNamespace(budgets=[])

    def times(run: Run, paths: list[Path]) -> dict[Path, Measured]:
        timed.extend(paths)
        return {path: Measured.of([1.5e6] * 16) for path in paths}

    monkeypatch.setattr(comparison, "compare", compared)
    monkeypatch.setattr(deployment, "measure_latency", times)
    return timed


def test_all_networks_stand_in_one_list_and_are_timed_together(
    first: Run, second: Run, measured: list[Path]
) -> None:
    found = side_by_side([first, second], [])
    assert [network.run for network in found.networks] == (
        [str(first.folder)] * 4 + [str(second.folder)] * 4
    )
    assert {network.latency_ms for network in found.networks} == {1.5}
    assert measured == [
        run.folder / f"compare/{name}.onnx"
        for run in (first, second)
        for name in ("searched-0", "searched-1", "searched-2", "random-0")
    ]
    assert [list(run.seeds) for run in found.result.runs] == [[0, 1, 2]] * 2
    assert found.result.recipe.epochs == 2
    assert found.result.data.fingerprint == first.data.fingerprint
    (row,) = found.result.differences
    assert (row.run, row.against) == (str(second.folder), str(first.folder))
    assert (row.mean, row.seeds, row.p) == (pytest.approx(2), 3, None)
    (told,) = comparison.sentences(found)
    assert told.endswith(
        "+2.00 ± 0.00 points over 3 seeds (no spread to test): no difference shown; "
        "310k against 300k FLOPs."
    )


def test_a_file_that_does_not_fit_stops_before_anything_is_compared(
    first: Run, measured: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "x.onnx").write_text("no model", encoding="utf-8")
    with pytest.raises(FileError, match="is not an ONNX file"):
        side_by_side([first], [tmp_path / "x.onnx"])
    del first.data  # the images are not read for a file that is not there
    with pytest.raises(FileError, match=r"y\.onnx does not exist"):
        side_by_side([first], [tmp_path / "y.onnx"])
    assert "data" not in vars(first)
    assert measured == []


def test_a_comparison_is_kept_and_only_replaced_when_asked(
    first: Run, second: Run, measured: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = side_by_side([first, second], [])
    check_out(out, overwrite=False)
    write_comparison(found, out, overwrite=False)
    assert read_networks(out / "compare.json") == found.networks
    assert {"networks": to_plain(found.networks)} | read_json(
        out / "result.json"
    ) == found.to_dict()
    with pytest.raises(FileError, match="--overwrite"):
        check_out(out, overwrite=False)
    check_out(out, overwrite=True)
    with pytest.raises(FileError, match="holds a run"):
        check_out(first.folder, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/years.txt").write_text("", encoding="utf-8")
    with pytest.raises(FileError, match="is not empty"):
        check_out(tmp_path / "thesis", overwrite=True)
    with pytest.raises(FileError, match="is not a directory"):
        check_out(tmp_path / "thesis/years.txt", overwrite=True)


@pytest.fixture
def copy(whole_run: Any, tmp_path: Path) -> Path:
    """A copy of a whole run to add to."""
    return Path(shutil.copytree(whole_run.folder, tmp_path / "copy"))


@pytest.mark.usefixtures("byte_clock")
def test_baselines_are_added_and_what_is_there_is_not_trained_again(
    copy: Path, whole_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = to_plain(read_networks(copy / "compare.json"))
    trained: list[str] = []
    timed: list[Path] = []
    train, times = pipeline._trained, deployment.measure_latency

    def spy(run: Run, network: Any) -> Any:
        trained.append(network.name)
        return train(run, network)

    def spied_times(run: Run, paths: Any) -> Any:
        timed.extend(paths)
        return {path: replace(time, unsteady=False) for path, time in times(run, paths).items()}

    monkeypatch.setattr(pipeline, "_trained", spy)
    monkeypatch.setattr(deployment, "measure_latency", spied_times)
    run = open_run(copy, NullReporter())
    names = ("mobilenet_v3_small", "random")
    networks, result = to_plain(compare(run, names, whole_run.request["random"] + 1))
    assert trained == ["random-2"]
    assert len(networks) == len(before) + 1
    assert len(timed) == len(networks)
    kept = ("name", "seed", "top1", "flops", "onnx", "arch")
    for old, new in zip(before, networks, strict=False):
        assert {name: old[name] for name in kept} == {name: new[name] for name in kept}
    assert networks == to_plain(read_networks(copy / "compare.json"))
    assert result["baselines"] == networks[1:]
    assert result["differences"][0]["seeds"] == 1
    # asked again, nothing is left to do
    again = compare(run, names, whole_run.request["random"] + 1)[0]
    assert to_plain(again) == to_plain(compare(run)[0]) == networks
    assert trained == ["random-2"]


def test_every_network_of_a_comparison_is_made_alike(whole_run: Any) -> None:
    run = open_run(whole_run.folder, NullReporter())
    entries = to_plain(read_networks(whole_run.folder / "compare.json"))
    described = []
    for one in entries:
        onnx = whole_run.folder / one["onnx"]
        own = onnx.parent if one["kind"] != "searched" else whole_run.folder
        trained = read_json(own / "train/train.json")
        rates = [line["lr"] for line in read_jsonl(own / "train/log.jsonl")]
        props = read_props(onnx)
        same = {name: props[name] for name in ("labels", "mean", "std", "image_size")}
        described.append(same | {"epochs": trained["epochs"], "rates": rates})
        assert one["seed"] in run.seeds
        assert one["arch"]["head"]["dropout"] == entries[0]["arch"]["head"]["dropout"]
    assert all(one == described[0] for one in described)
    assert described[0]["epochs"] == len(described[0]["rates"]) == run.settings.recipe.epochs


def test_mobilenets_have_one_width_for_all_seeds(
    first: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # under a latency budget a second measurement may choose another width
    asked: list[int] = []
    choose = baselines.mobilenets

    def spy(*given: Any) -> Any:
        asked.append(given[4])
        return choose(*given)

    monkeypatch.setattr(baselines, "mobilenets", spy)
    networks = baselines._mobilenets(first, ["mobilenet_v3_small"], first.budgets)
    assert asked == [0]
    by_seed = [[replace(n, seed=0) for n in networks if n.seed == seed] for seed in first.seeds]
    assert by_seed[0] and by_seed[0] == by_seed[1] == by_seed[2]


def test_a_run_without_weights_is_not_searched_by_a_comparison(second: Run) -> None:
    with pytest.raises(FileError, match=r"second has no model\.safetensors; run `mobilenas train`"):
        compare_stage(second)


def test_a_comparison_of_another_release_is_named(copy: Path) -> None:
    path = copy / "compare.json"
    entries = [{k: v for k, v in e.items() if k != "top1"} for e in to_plain(read_networks(path))]
    path.write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(FileError, match=r"copy/compare\.json: networks\[0\] lacks 'top1'"):
        compare(open_run(copy, NullReporter()))
