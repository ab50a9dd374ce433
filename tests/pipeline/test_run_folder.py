import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.errors import BudgetError, DataError, FileError, MobileNASError
from mobilenas.core.files import read_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import COUNTING_RULE, from_plain, to_plain
from mobilenas.cost.budget import Budget
from mobilenas.data import DataSettings, ImageData
from mobilenas.pipeline import run_folder as runs
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import Run, create_run, open_run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.search import FinalistSettings, SearchSettings
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.supernet.schedules import EntropySchedule, Temperature
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.train import Recipe

SETTINGS = RunSettings(
    data=DataSettings(source="digits", data_root=Path("images"), flip=False),
    budgets=(Budget(cost="flops", limit=300_000), Budget(cost="memory", limit=10**6)),
    search=SearchSettings(
        epochs=4,
        warmup=2,
        sampling="single-path",
        sampler=SamplerSettings(name="ranked", partial=2),
        temperature=Temperature(start=2.0, end=0.25),
        entropy=EntropySchedule(weight=0.5, shape="step", start=0.25),
        constraint="hinge",
    ),
    finalists=FinalistSettings(count=3, epochs=1),
    recipe=Recipe(epochs=3, crop_padding=1, warmup_epochs=0.5),
    baselines=("mobilenet_v2",),
    random=2,
    random_search=True,
    equal_time=True,
    inherit=True,
    seed=5,
    seeds=2,
)


@pytest.fixture(autouse=True)
def a_small_space(monkeypatch: pytest.MonkeyPatch, micro_space: MobileSpace) -> None:
    """Sizing a space takes longer than all else here."""
    monkeypatch.setattr(runs, "usable_space", lambda settings, data, latency: micro_space)


@pytest.fixture
def begin(tmp_path: Path, micro_images: ImageData) -> Any:
    def begin(folder: Path = tmp_path / "run", **changes: Any) -> Run:
        given = {"settings": SETTINGS, "data": micro_images} | changes
        return create_run(
            folder,
            given.pop("settings"),
            command="mobilenas test",
            reporter=NullReporter(),
            **given,
        )

    return begin


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_settings_survive_run_json(begin: Any) -> None:
    run = begin()
    assert open_run(run.folder, NullReporter()).settings == SETTINGS
    record = read_json(run.folder / "run.json")
    assert from_plain(RunSettings, record["settings"], "settings") == SETTINGS
    assert record["settings"] == to_plain(SETTINGS)


def test_run_json_says_what_the_results_depend_on(begin: Any, micro_images: ImageData) -> None:
    record = json.loads((begin().folder / "run.json").read_text())
    assert record["schema_version"] == 2
    assert record["command"] == "mobilenas test"
    assert record["seed"] == 5
    assert record["counting_rule"] == COUNTING_RULE
    assert record["data"] == to_plain(micro_images.describe())
    assert record["budgets"][0] == {"cost": "flops", "limit": 300_000}
    assert {"torch", "onnxruntime", "python", "mobilenas"} <= record["versions"].keys()
    assert record["machine"].keys() == {"platform", "processor", "cuda"}


def test_an_opened_run_has_the_space_it_was_made_with(begin: Any, micro_space: MobileSpace) -> None:
    run = open_run(begin().folder, NullReporter())
    assert run.space == micro_space
    assert run.budgets.space == micro_space
    assert run.budgets.budgets == SETTINGS.budgets


def test_the_first_seed_is_the_run_itself_and_others_live_below(begin: Any) -> None:
    run = begin()
    assert list(run.seeds) == [5, 6]
    assert run.seed_folder(5) == run.folder
    assert run.seed_folder(6) == run.folder / "repeats/seed-6"


def test_a_folder_with_a_run_is_refused(begin: Any) -> None:
    folder = begin().folder
    before = files(folder)
    with pytest.raises(FileError, match="--resume"):
        begin()
    assert files(folder) == before


def test_resume_goes_on(begin: Any) -> None:
    before = files(begin().folder)
    run = begin(resume=True)
    assert run.settings == SETTINGS
    assert files(run.folder) == before


def test_resume_of_nothing_starts(begin: Any) -> None:
    assert (begin(resume=True).folder / "run.json").exists()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seed": 6}, "seed differ"),
        ({"budgets": (Budget(cost="flops", limit=1),), "random": 0}, "budgets, random differ"),
        ({"recipe": replace(SETTINGS.recipe, epochs=4)}, "recipe differ"),
        ({"data": DataSettings(source="digits")}, "data differ"),
    ],
)
def test_resume_with_other_settings_is_refused(
    begin: Any, changes: dict[str, Any], names: str
) -> None:
    folder = begin().folder
    before = files(folder)
    with pytest.raises(FileError, match=f"holds another run: {names}"):
        begin(resume=True, settings=replace(SETTINGS, **changes))
    assert files(folder) == before


def test_resume_with_other_images_is_refused(begin: Any, micro_images: ImageData) -> None:
    begin()
    with pytest.raises(DataError, match=r"the images of bands are not those .* started with"):
        begin(resume=True, data=replace(micro_images, fingerprint="changed"))


def test_changed_images_are_refused_where_they_are_read(
    begin: Any, micro_images: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin().folder
    monkeypatch.setattr(runs, "load_data", lambda settings, reporter: micro_images)
    assert open_run(folder, NullReporter()).data is micro_images
    changed = replace(micro_images, fingerprint="changed")
    monkeypatch.setattr(runs, "load_data", lambda settings, reporter: changed)
    with pytest.raises(DataError, match=r"the images of bands are not those .* started with"):
        _ = open_run(folder, NullReporter()).data


def test_overwrite_replaces_all_of_a_run(begin: Any) -> None:
    folder = begin().folder
    (folder / "search").mkdir()
    (folder / "search/checkpoint.pt").write_bytes(b"old")
    run = begin(overwrite=True, settings=replace(SETTINGS, seed=9))
    assert list(files(folder)) == ["run.json"]
    assert run.settings.seed == 9
    assert open_run(folder, NullReporter()).settings.seed == 9


@pytest.mark.parametrize("changes", [{"data": DataSettings(source="moved")}, {"device": "cuda"}])
def test_a_run_opens_and_is_replaced_without_its_images_and_its_device(
    begin: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = replace(SETTINGS, **changes)
    run = begin(settings=settings)
    assert open_run(run.folder, NullReporter()).settings == settings
    if "data" in changes:
        with pytest.raises(DataError, match="'moved' is not a directory"):
            _ = open_run(run.folder, NullReporter()).data
    assert open_run(begin(overwrite=True).folder, NullReporter()).settings == SETTINGS


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_with_other_things_is_never_touched(
    begin: Any, tmp_path: Path, how: dict[str, bool]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError, match="is not empty and holds no run"):
        begin(folder=tmp_path, **how)
    assert list(files(tmp_path)) == ["thesis.tex"]


def test_an_empty_folder_will_do(begin: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert (begin(folder=tmp_path / "empty").folder / "run.json").exists()


def test_a_start_that_was_killed_in_its_first_write_can_be_repeated(
    begin: Any, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.run.json.123.tmp").write_text('{"schema')
    assert begin(resume=True).settings == SETTINGS


def test_a_file_in_the_folders_place_is_refused(begin: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is not a directory"):
        begin(folder=tmp_path / "file")


def test_an_unwritable_place_is_an_error_with_its_name(begin: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot use") as caught:
        begin(folder=tmp_path / "file/run")
    assert str(tmp_path / "file/run") in str(caught.value)


def test_opening_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"holds no run: there is no .*run\.json"):
        open_run(tmp_path, NullReporter())


def damaged(folder: Path, damage: Any) -> None:
    record = json.loads((folder / "run.json").read_text())
    damage(record)
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["equal_time", "inherit"])
def test_a_run_of_before_an_option_was_not_asked_for_it(begin: Any, name: str) -> None:
    folder = begin().folder
    damaged(folder, lambda record: record["settings"].pop(name))
    assert open_run(folder, NullReporter()).settings == replace(SETTINGS, **{name: False})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop("settings"), r"run\.json: it lacks 'settings'"),
        (lambda r: r["settings"].pop("recipe"), r"run\.json: settings lacks 'recipe'"),
        (lambda r: r["settings"].update(speed=1), "settings has an unknown field 'speed'"),
        (lambda r: r["settings"].update(seed="one"), "settings.seed is 'one'; it must be int"),
        (lambda r: r["settings"].update(extra_depthwise=True), "extra_depthwise is True; it must"),
        (lambda r: r["settings"]["search"].update(sampling="all"), "sampling is 'all'"),
        (lambda r: r.update(schema_version=1), "schema_version is 1; this release reads 2"),
    ],
)
def test_settings_edited_to_be_wrong_are_named(begin: Any, damage: Any, message: str) -> None:
    folder = begin().folder
    damaged(folder, damage)
    with pytest.raises(FileError, match=message):
        open_run(folder, NullReporter())


@pytest.mark.parametrize("damage", [lambda r: r.pop("data"), lambda r: r["data"].clear()])
def test_a_record_without_its_images_is_an_error(
    begin: Any, micro_images: ImageData, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    folder = begin().folder
    monkeypatch.setattr(runs, "load_data", lambda settings, reporter: micro_images)
    damaged(folder, damage)
    with pytest.raises(MobileNASError, match=r"run\.json|are not those"):
        _ = open_run(folder, NullReporter()).data


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r.pop("space"),
        lambda r: r.update(space=[]),
        lambda r: r["space"].update(start_kernel=3),
    ],
)
def test_a_record_without_its_space_is_an_error(begin: Any, damage: Any) -> None:
    folder = begin().folder
    damaged(folder, damage)
    with pytest.raises(MobileNASError, match=r"run\.json: space"):
        _ = open_run(folder, NullReporter()).space


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": ()}, "no budget"),
        ({"budgets": (Budget(cost="flops", limit=1),) * 2}, "a cost has two budgets: flops, flops"),
        ({"baselines": ("resnet",)}, "baseline is 'resnet'; it must be one of mobilenet_v2"),
        ({"random": -1}, "random is -1"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "device is 'tpu'; it must be one of cpu, cuda"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        replace(SETTINGS, **changes)


def test_two_budgets_of_one_cost_are_a_budget_error() -> None:
    with pytest.raises(BudgetError):
        replace(SETTINGS, budgets=(Budget(cost="flops", limit=1), Budget(cost="flops", limit=2)))


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = Request(data="digits", flops=300_000, device="cuda")
    with pytest.raises(MobileNASError, match="torch finds no CUDA device"):
        asked.settings(1000)
    run = Run(folder=Path(), settings=replace(SETTINGS, device="cuda"))
    with pytest.raises(MobileNASError, match="torch finds no CUDA device"):
        _ = run.device
