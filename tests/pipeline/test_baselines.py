"""Which networks are trained for longer, from what stands in the run's files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from mobilenas.baselines.networks import ComparedNetwork
from mobilenas.baselines.records import Trained
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.settings import from_plain
from mobilenas.cost.networks import costs
from mobilenas.pipeline.baselines import longer_mobilenets, read_longer
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.train import Recipe

EARLY, LATE = "mobilenet_v3_small x0.11", "mobilenet_v2 x0.2 late"
ARCHS = {
    EARLY: MOBILENETS["mobilenet_v3_small"](0.11, 32, 5, "early"),
    LATE: MOBILENETS["mobilenet_v2"](0.2, 32, 5, "late"),
}
SEARCH = {"supernet": 200.0, "candidates": 10.0, "finalists": 40.0}
JSON = "compare/equal-time-seed-0/equal-time.json"


def entry(kind: str, name: str, seed: int, **figures: Any) -> Trained:
    arch = ARCHS.get(name, ARCHS[EARLY])
    plain = {"name": name, "kind": kind, "seed": seed, "arch": arch.to_dict(), "onnx": "m.onnx"}
    plain |= {"flops": 1, "params": 1, "memory": 1, "size_bytes": 1, "predicted_ms": None}
    plain |= {"val_top1": 50.0, "top1": 50.0, "train_seconds": 100.0}
    return from_plain(Trained, plain | figures, "")


def trained() -> list[Trained]:
    """Two seeds; validation images prefer another MobileNet in each, test images the other one."""
    return [
        entry("searched", "searched", 0, train_seconds=50.0),
        entry("searched", "searched", 1, train_seconds=150.0),
        entry("random", "random-1", 0, val_top1=99.0, top1=99.0),
        entry("mobilenet", EARLY, 0, val_top1=71.0, top1=10.0, train_seconds=100.0),
        entry("mobilenet", LATE, 0, val_top1=70.0, top1=90.0, train_seconds=10.0),
        entry("mobilenet", EARLY, 1, val_top1=70.0, top1=90.0, train_seconds=10.0),
        entry("mobilenet", LATE, 1, val_top1=71.0, top1=10.0, train_seconds=80.0),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run of two seeds whose searches are done."""

    def seed_folder(seed: int) -> Path:
        return tmp_path / f"repeats/seed-{seed}" if seed else tmp_path

    arch = ARCHS[EARLY]
    record = {"arch": arch.to_dict(), "costs": vars(costs(arch)), "budgets": [], "seconds": SEARCH}
    record |= {"counting_rule": "r", "candidates": 2, "seed": 0}
    for seed in range(2):
        write_json(seed_folder(seed) / "arch.json", record)
    settings = SimpleNamespace(
        recipe=Recipe(epochs=15), baselines=(), random=0, random_search=False, equal_time=True
    )
    reporter = SimpleNamespace(said=list[str]())
    reporter.info = reporter.said.append
    return SimpleNamespace(
        folder=tmp_path,
        settings=settings,
        seeds=range(2),
        seed_folder=seed_folder,
        reporter=reporter,
    )


def longer(seed: int, name: str, epochs: int) -> ComparedNetwork:
    return ComparedNetwork(
        name="equal-time",
        kind="equal-time",
        arch=ARCHS[name],
        seed=seed,
        epochs=epochs,
        network=name,
    )


# 15 epochs of 100 s in 250 + 50 s, 15 of 80 s in 250 + 150 s
LONGER = [longer(0, EARLY, 45), longer(1, LATE, 75)]


def test_each_seeds_best_on_validation_images_gets_the_time_of_its_search(run: Any) -> None:
    assert longer_mobilenets(run, None, trained()) == LONGER
    assert [one.folder for one in LONGER] == ["equal-time-seed-0", "equal-time-seed-1"]
    assert read_json(run.folder / JSON) == {
        "network": EARLY,
        "arch": ARCHS[EARLY].to_dict(),
        "epochs": 45,
        "recipe_epochs": 15,
        "seconds": 300.0,
        "seconds_of_recipe": 100.0,
    }
    assert run.reporter.said == []


def test_what_was_decided_stays_whatever_is_measured_or_added_later(run: Any) -> None:
    longer_mobilenets(run, None, trained())
    slower = [replace(one, train_seconds=7.0) for one in trained()]
    better = entry("mobilenet", "mobilenet_v3_large x0.1", 0, val_top1=99.0)
    assert longer_mobilenets(run, None, [*slower, better]) == LONGER
    done = entry("equal-time", "equal-time", 0)
    assert longer_mobilenets(run, None, [*trained(), done]) == LONGER[1:]


def test_without_being_asked_for_there_is_none(run: Any) -> None:
    run.settings.equal_time = False
    assert longer_mobilenets(run, None, trained()) == []
    assert not (run.folder / "compare").exists()


def test_without_a_mobilenet_it_is_skipped_and_said(run: Any) -> None:
    others = [one for one in trained() if one.kind != "mobilenet"]
    assert longer_mobilenets(run, None, others) == []
    assert run.reporter.said == ["no MobileNet is compared (seed 0, 1): equal-time is skipped"]
    assert not (run.folder / "compare").exists()
    # one that is added later is given the time
    assert longer_mobilenets(run, None, trained()) == LONGER


@pytest.mark.parametrize("field", ["val_top1", "train_seconds", "arch"])
def test_a_network_that_lacks_what_decides_is_named(run: Any, field: str) -> None:
    entries = trained()
    entries[3] = replace(entries[3], **{field: None})
    with pytest.raises(FileError, match=rf"compare\.json: .*'{EARLY}' lacks '{field}'"):
        longer_mobilenets(run, None, entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be int between 1 and 100000"),
        ({"network": None}, "network is None; it must be str"),
        ({"arch": {"space": "flat"}}, "arch.space is 'flat'"),
    ],
)
def test_a_record_edited_to_be_wrong_is_named(
    run: Any, change: dict[str, Any], message: str
) -> None:
    longer_mobilenets(run, None, trained())
    path = run.folder / JSON
    assert isinstance(read_longer(path, 0).arch, MobileArch)
    write_json(path, read_json(path) | change)
    with pytest.raises(MobileNASError, match=message) as caught:
        read_longer(path, 0)
    assert str(path) in str(caught.value)
