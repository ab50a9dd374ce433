"""Ablations of tiny images: equal cost, whole runs, kills, what is refused."""

import random
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from PIL import Image

from mobilenas.baselines.paired import difference
from mobilenas.core.errors import BudgetError, FileError, MobileNASError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.networks import costs
from mobilenas.pipeline.ablation import (
    ABLATION_FILE,
    ENTRY_FILE,
    PAGE_FILE,
    REQUEST_FILE,
    open_ablation,
    run_ablation,
    start_ablation,
    widest,
)
from mobilenas.pipeline.request import Request
from mobilenas.search.diagnostics import agreement
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, parse_genotype
from mobilenas.spaces.cell.space import CellChoice
from mobilenas.spaces.networks import arch_from_dict
from mobilenas.train import BEST_WEIGHTS, evaluate, load_weights

LIMIT = 100_000
ARMS = "da2s,random"
CELLS: dict[str, Any] = {
    "space": "cell",
    "flops": LIMIT,
    "image_size": 8,
    "search_layers": 3,
    "search_channels": 4,
    "layers": 3,
    "epochs": 1,
    "search_epochs": 2,
    "seeds": 2,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of three classes: which third of the image is bright."""
    folder, source = tmp_path_factory.mktemp("images"), random.Random(0)
    for label in range(3):
        (folder / "abc"[label]).mkdir()
        for number in range(20):
            image = Image.new("RGB", (8, 8))
            for place in range(64):
                shade = source.randrange(90) + 120 * (place // 24 == label)
                image.putpixel((place % 8, place // 8), (shade, shade, shade))
            image.save(folder / "abc"[label] / f"{number}.png")
    return str(folder)


class Diary(NullReporter):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)


class KilledError(Exception):
    """A run ends here, as if it were killed."""


class Stopping(NullReporter):
    """Stops once at each of `moments`, in their order."""

    def __init__(self, moments: list[tuple[object, ...]]) -> None:
        self.moments, self.stage = moments, ""

    def _at(self, *moment: object) -> None:
        if self.moments and self.moments[0] == moment:
            del self.moments[0]
            raise KilledError

    def start(self, stage: str, total: int) -> None:
        self.stage = stage
        self._at(stage, 0)

    def step(self, done: int, figures: dict[str, str]) -> None:
        self._at(self.stage, done)

    def info(self, message: str) -> None:
        self._at(message)


def begin(folder: Path, images: str, methods: str = ARMS, **words: Any) -> dict[str, Any]:
    asked = {name: words.pop(name) for name in list(words) if name in get_type_hints(Request)}
    given = {"command": "mobilenas test", "reporter": NullReporter()} | words
    request = Request(**CELLS | {"data": images} | asked)
    return to_plain(run_ablation(start_ablation(folder, request, methods, **given)))


@pytest.fixture(scope="module")
def whole(images: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diary]:
    folder, diary = tmp_path_factory.mktemp("ablations") / "whole", Diary()
    begin(folder, images, reporter=diary)
    return folder, diary


def record_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / ABLATION_FILE)


def test_the_widest_network_keeps_every_budget_and_the_next_does_not() -> None:
    arch = replace(CELL_NETWORKS["darts_v2"](), layers=5)
    flops, params = Budget(cost="flops", limit=9_000_000), Budget(cost="params", limit=90_000)
    for budgets in ([flops], [params], [flops, params]):
        found = widest(arch, budgets, "it")
        wider = costs(replace(found, channels=found.channels + 2))
        assert found.channels % 2 == 0
        assert all(getattr(costs(found), b.cost) <= b.limit for b in budgets)
        assert any(getattr(wider, b.cost) > b.limit for b in budgets)
        assert found.genotype == arch.genotype


def test_a_budget_that_no_channels_keep_names_the_smallest_cost() -> None:
    arch = CELL_NETWORKS["darts_v2"]()
    least = costs(replace(arch, channels=2)).params
    assert widest(arch, [Budget(cost="params", limit=least)], "it").channels == 2
    told = f"darts, seed 3: params <= {(least - 1) / 1000:.4g}k cannot be met.*{least / 1000:.4g}k"
    with pytest.raises(BudgetError, match=told):
        widest(arch, [Budget(cost="params", limit=least - 1)], "darts, seed 3")


def test_it_goes_seed_by_seed(whole: tuple[Path, Diary]) -> None:
    told = [line for line in whole[1].said if line.startswith("seed ")]
    assert told == ["seed 0: da2s", "seed 0: random", "seed 1: da2s", "seed 1: random"]


def test_the_record_is_what_the_runs_hold(whole: tuple[Path, Diary]) -> None:
    record = record_of(whole[0])
    assert (record["seeds"], record["seeds_requested"]) == ([0, 1], [0, 1])
    assert record["control"] == "da2s"
    assert [arm["name"] for arm in record["variants"]] == ["da2s", "random"]
    for arm in record["variants"]:
        for entry in arm["entries"]:
            folder = whole[0] / f"runs/{arm['name']}-seed-{entry['seed']}"
            assert read_json(folder / "run.json")["settings"]["seed"] == entry["seed"]
            assert read_json(folder / "run.json")["settings"]["budgets"] == []
            arch = arch_from_dict(entry["arch"])
            assert isinstance(arch, CellArch)
            assert parse_genotype(entry["genotype"]) == arch.genotype
            edges = [e for node in arch.genotype.normal.nodes for e in node]
            named = [edge.operation == "skip_connect" for edge in edges]
            assert entry["skips"]["normal"] == sum(named)
            if arm["method"] == "random":
                assert (entry["gap"], entry["alarms"], entry["seconds"]["search"]) == (None, [], 0)
                continue
            found = read_json(folder / "arch.json")
            assert found["genotype"] == entry["genotype"]
            assert entry["gap"] == {
                name: found["discretization_gap"][name] for name in ("points", "points_before")
            }
            assert entry["alarms"] == found["alarms"]
            assert entry["seconds"]["search"] == sum(found["seconds"].values()) > 0


def test_every_network_has_the_most_channels_that_keep_the_budget(
    whole: tuple[Path, Diary],
) -> None:
    for arm in record_of(whole[0])["variants"]:
        for entry in arm["entries"]:
            arch = arch_from_dict(entry["arch"])
            assert isinstance(arch, CellArch)
            assert entry["costs"]["flops"] == costs(arch).flops <= LIMIT
            assert costs(replace(arch, channels=arch.channels + 2)).flops > LIMIT
            assert entry["channels"] == arch.channels


def test_top1_is_that_of_the_trained_weights_on_the_test_images(
    whole: tuple[Path, Diary],
) -> None:
    data = open_ablation(whole[0], NullReporter()).data
    for arm in record_of(whole[0])["variants"]:
        for entry in arm["entries"]:
            weights = whole[0] / f"runs/{arm['name']}-seed-{entry['seed']}/train" / BEST_WEIGHTS
            model = load_weights(arch_from_dict(entry["arch"]), weights)
            assert entry["top1"] == evaluate(model, data.test, data, "cpu").top1


def test_figures_over_seeds_are_those_of_the_entries(whole: tuple[Path, Diary]) -> None:
    searched, drawn = record_of(whole[0])["variants"]
    for arm in (searched, drawn):
        first, second = (entry["top1"] for entry in arm["entries"])
        assert arm["top1"]["mean"] == pytest.approx((first + second) / 2)
        assert arm["top1"]["sd"] == pytest.approx(abs(first - second) / 2**0.5)
        picks = [entry["choice"] for entry in arm["entries"]]
        choices = [CellChoice(**{k: tuple(v) for k, v in pick.items()}) for pick in picks]
        assert arm["agreement"] == agreement(choices)
    assert searched["difference"] is None
    wanted = difference(*([e["top1"] for e in arm["entries"]] for arm in (drawn, searched)))
    assert drawn["difference"] == to_plain(wanted)
    assert drawn["gap"] is None


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_one_that_is_killed_again_and_again_ends_as_one_that_is_not(
    whole: tuple[Path, Diary], images: str, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    moments: list[tuple[object, ...]] = [
        ("search", 1),
        ("train", 0),
        ("seed 0: random",),
        ("train", 1),
        ("seed 1: da2s",),
        ("search", 2),
        ("seed 1: random",),
    ]
    reporter, stops = Stopping(moments), len(moments)
    for number in range(stops):
        with pytest.raises(KilledError):
            begin(folder, images, reporter=reporter, resume=number > 0)
    part = record_of(folder)
    assert (part["seeds"], part["seeds_requested"]) == ([0], [0, 1])
    assert "1 of 2 seeds are done" in (folder / PAGE_FILE).read_text(encoding="utf-8")
    record = to_plain(run_ablation(open_ablation(folder, reporter)))
    assert record_of(folder) == record
    assert without_seconds(record) == without_seconds(record_of(whole[0]))
    assert "seeds are done" not in (folder / PAGE_FILE).read_text(encoding="utf-8")


def test_what_is_done_is_not_done_again(whole: tuple[Path, Diary]) -> None:
    before = record_of(whole[0])
    made = {path: path.stat().st_mtime_ns for path in (whole[0] / "runs").rglob("*")}
    diary = Diary()
    run_ablation(open_ablation(whole[0], diary))
    assert record_of(whole[0]) == before
    assert not any(line.startswith("seed ") for line in diary.said)
    assert {path: path.stat().st_mtime_ns for path in (whole[0] / "runs").rglob("*")} == made


def test_another_ablation_is_not_gone_on_with(whole: tuple[Path, Diary], images: str) -> None:
    for words, message in (
        ({}, "--resume"),
        ({"resume": True, "seeds": 3}, "another ablation: seeds differ"),
        ({"resume": True, "methods": "random,da2s"}, "another ablation: variants, control differ"),
        ({"resume": True, "control": "random"}, "another ablation: control differ"),
    ):
        with pytest.raises(FileError, match=message):
            begin(whole[0], images, **words)


def test_an_ablation_can_be_replaced_and_nothing_else_can(
    whole: tuple[Path, Diary], images: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work", encoding="utf-8")
    (tmp_path / "file").touch()
    for name, message in (("mine", "holds no ablation"), ("file", "not a directory")):
        for words in ({}, {"overwrite": True}):
            with pytest.raises(FileError, match=message):
                begin(tmp_path / name, images, **words)
    assert (tmp_path / "mine/thesis.txt").exists()
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(whole[0] / REQUEST_FILE, old)
    write_json(old / f"runs/da2s-seed-0/{ENTRY_FILE}", {"top1": 100.0})
    record = begin(old, images, methods="random", seeds=1, overwrite=True)
    assert [arm["name"] for arm in record["variants"]] == ["random"]
    assert [path.name for path in (old / "runs").iterdir()] == ["random-seed-0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"flops": None}, "--flops or --params"),
        ({"flops": 10}, "flops <= 10"),
        ({"method": "darts"}, "--method.*--methods"),
        ({"channels": 16}, "--channels"),
        ({"random": 5}, "--random"),
        (
            {"methods": "darts:channel_fraction=1/2"},
            "darts:channel_fraction=1/2: --channel-fraction 1/2 needs",
        ),
        ({"methods": "cpm,da2s:order=2"}, "variant da2s:order=2: --order 2 is not published"),
        (
            {"methods": "da2s:sampling=single-path"},
            "da2s:sampling=single-path: --sampling single-path",
        ),
        (
            {"methods": "darts,cpm", "channel_fraction": "1/8"},
            "variant darts: --channel-fraction 1/8",
        ),
        (
            {"methods": "pc-darts,pc-darts:channel_fraction=1/4"},
            "are the same search",
        ),
        ({"control": "cpm"}, "--control is cpm; it must be one of --methods: da2s, random"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    words: dict[str, Any], message: str, images: str, tmp_path: Path
) -> None:
    with pytest.raises(MobileNASError, match=message):
        begin(tmp_path / "out", images, **words)
    assert not (tmp_path / "out").exists()


def test_a_damaged_request_is_named(images: str, tmp_path: Path) -> None:
    write_json(
        tmp_path / REQUEST_FILE, {"request": {"spaec": "cell"}, "variants": [], "control": "x"}
    )
    with pytest.raises(FileError, match=f"{REQUEST_FILE}: request lacks '"):
        open_ablation(tmp_path, NullReporter())
    with pytest.raises(FileError, match="holds no ablation"):
        open_ablation(tmp_path / "gone", NullReporter())


@pytest.mark.slow
def test_chains_are_compared_too(images: str, tmp_path: Path) -> None:
    given = {name: None for name in CELLS if "layers" in name or "channels" in name}
    words: dict[str, Any] = given | {"space": "mobile", "seeds": 2, "finalists": 0}
    record = begin(tmp_path / "out", images, "mobilenas,random", **words)
    for arm in record["variants"]:
        assert set(arm["skips"]) == {"blocks"}
        assert 0 <= arm["agreement"] <= 1
        for entry in arm["entries"]:
            assert 0.9 * LIMIT <= entry["costs"]["flops"] <= LIMIT
            assert "genotype" not in entry
    seeds = [entry["arch"] for entry in record["variants"][1]["entries"]]
    assert all(a != b for a, b in pairwise(seeds))
