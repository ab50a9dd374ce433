"""`--image-size auto`: the sides there are, how one is chosen, and what is compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.files import read_json, read_jsonl
from mobilenas.core.progress import NullReporter
from mobilenas.core.records import read_record
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData, ImageKind
from mobilenas.pipeline import image_size
from mobilenas.pipeline import stages as pipeline
from mobilenas.pipeline.ablation import _check_request
from mobilenas.pipeline.baselines import searched_arch
from mobilenas.pipeline.comparison import check_alike
from mobilenas.pipeline.dry_run import dry_run
from mobilenas.pipeline.estimate import Speeds, parts
from mobilenas.pipeline.image_size import at_chosen_size, choosing_seconds, image_sizes
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import Run, open_run
from mobilenas.pipeline.starting import start
from mobilenas.report.files import RunFiles
from mobilenas.report.search import image_size as section
from mobilenas.report.table import read_networks
from mobilenas.search import finalists
from mobilenas.search.records import ImageSizeRecord
from mobilenas.spaces.base import Arch
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.networks import arch_from_dict

ASKED: dict[str, Any] = {
    "flops": 400_000,
    "image_size": "auto",
    "epochs": 3,
    "search_epochs": 1,
    "finalists": 2,
    "random": 1,
    "baselines": ("mobilenet_v3_small",),
}
pytestmark = pytest.mark.usefixtures("byte_clock", "no_estimate")


def kind(side: int) -> ImageKind:
    return ImageKind(name="images", classes=("a", "b"), image_size=side)


def sides(side: int, **asked: Any) -> tuple[int, ...]:
    return image_sizes(Request(**ASKED | asked).settings(1000), kind(side))


def test_sides_are_evenly_spread_up_to_the_images_own() -> None:
    assert sides(224, flops=30_000_000) == (32, 64, 112, 144, 192, 224)
    assert sides(100, flops=3_000_000) == (32, 48, 64, 80, 96, 100)
    assert sides(40) == (32, 40)
    assert sides(28) == (28,)


def test_sides_at_which_no_network_keeps_the_budget_are_left_out() -> None:
    found = sides(224, flops=1_000_000)
    assert found[0] == 32
    assert found[-1] < 112
    # the same from any image size that none of them exceeds
    assert sides(found[-1], flops=1_000_000) == found


def test_sides_that_cannot_use_the_budget_are_left_out() -> None:
    assert sides(64, flops=10_000_000_000) == (64,)


def test_a_budget_that_no_side_keeps_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"cannot be met.*\(images are 32x32 now\)"):
        sides(224, flops=1000)
    with pytest.raises(BudgetError, match=r"limits nothing: the largest .* has 37.*G flops"):
        sides(128, flops=10**12)


def test_a_number_leaves_nothing_to_choose() -> None:
    assert sides(224, image_size=96) == ()
    assert sides(224, image_size=None) == ()


def test_cells_and_ablations_refuse_it() -> None:
    with pytest.raises(
        MobileNASError, match=r"auto is for the mobile space.*give a number of pixels"
    ):
        Request(space="cell", image_size="auto")
    request = Request(flops=1_000_000, image_size="auto")
    with pytest.raises(MobileNASError, match="--image-size auto does not work in an ablation"):
        _check_request(request)


@pytest.fixture(scope="module")
def images(
    make_images: Callable[[int], ImageData], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Files of 48x48."""
    data, folder = make_images(48), tmp_path_factory.mktemp("data") / "bands"
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        for number, label in enumerate(split.labels.tolist()):
            path = folder / name / data.classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.store.pixels[number].permute(1, 2, 0).numpy()).save(path)
    return folder


def begin(folder: Path, images: Path, **asked: Any) -> Run:
    request = Request(**ASKED | {"data": str(images)} | asked)
    return start(folder, request, command="test", reporter=NullReporter())


@pytest.fixture(scope="module")
def run(
    images: Path, tmp_path_factory: pytest.TempPathFactory, byte_clock: None, no_estimate: None
) -> Run:
    """A whole run."""
    run = begin(tmp_path_factory.mktemp("runs") / "auto", images)
    pipeline.run_all(run)
    return open_run(run.folder, NullReporter())


def record_of(run: Run) -> ImageSizeRecord:
    return read_record(run.folder / "search/image-size.json", ImageSizeRecord)


def winner_of(record: ImageSizeRecord) -> Arch:
    assert record.winner is not None
    return arch_from_dict(record.archs[record.winner], "image-size.json")


def test_a_network_of_every_side_begins_the_final_training(run: Run) -> None:
    record = record_of(run)
    archs = [arch_from_dict(plain, "image-size.json") for plain in record.archs]
    assert [arch.image_size for arch in archs] == list(run.image_sizes) == [32, 48]
    assert record.names == ["32x32", "48x48"]
    for number, arch in enumerate(archs):
        assert 360_000 <= costs(arch).flops <= 400_000
        epochs = [score.epochs for score in record.scores if score.arch == number]
        log = read_jsonl(run.folder / f"search/image-size/{number}/log.jsonl")
        assert len(log) == max(epochs)


def test_the_search_goes_on_at_the_winners_side(run: Run) -> None:
    side = winner_of(record_of(run)).image_size
    assert searched_arch(run.folder).image_size == side
    space = run.space
    assert isinstance(space, MobileSpace) and space.image_size == side
    entries = {e.kind: e for e in read_networks(run.folder / "compare.json")}
    for kind in ("searched", "random"):
        arch = entries[kind].arch
        assert arch and arch["image_size"] == side


def test_the_winner_is_a_finalist_and_its_epochs_are_not_repeated(run: Run) -> None:
    record, finalists = record_of(run), read_json(run.folder / "search/finalists.json")
    place = finalists["archs"].index(record.archs[record.winner or 0])
    begun = read_jsonl(run.folder / f"search/image-size/{record.winner}/log.jsonl")
    log = read_jsonl(run.folder / f"search/finalists/{place}/log.jsonl")
    assert log[: len(begun)] == begun
    epochs = max(score["epochs"] for score in finalists["scores"] if score["arch"] == place)
    continued = sum(line["seconds"] for line in begun[:epochs])
    seconds = read_json(run.folder / "arch.json")["seconds"]
    assert list(seconds) == ["image size", "supernet", "candidates", "finalists"]
    assert seconds["image size"] == pytest.approx(record.seconds - continued)
    assert choosing_seconds(run, run.settings.seed + 1) == {"image size": record.seconds}


def test_a_mobilenet_is_compared_at_its_own_best_side(run: Run) -> None:
    folder = run.folder / "compare/mobilenet_v3_small-image-size-seed-0"
    record = read_record(folder / "search/image-size.json", ImageSizeRecord)
    assert {arch["image_size"] for arch in record.archs} == {32, 48}
    arch, name = winner_of(record), record.names[record.winner or 0]
    assert name.endswith(f" @{arch.image_size}")
    (entry,) = (e for e in read_networks(run.folder / "compare.json") if e.kind == "mobilenet")
    assert (entry.name, entry.arch) == (name, arch.to_dict())
    assert entry.flops == costs(arch).flops <= 400_000
    begun = read_jsonl(folder / f"search/image-size/{record.winner}/log.jsonl")
    trained = (run.folder / entry.onnx).parent / "train/log.jsonl"
    assert read_jsonl(trained)[: len(begun)] == begun


def test_the_report_shows_how_it_was_chosen(run: Run) -> None:
    shown = section(RunFiles(folder=run.folder))
    assert "32x32" in shown and "48x48" in shown and shown.count("(wins)") == 1


def test_a_killed_choice_is_resumed_to_the_same(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, calls = finalists.train_part, 0

    def dies(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return trained(*given, **more)

    monkeypatch.setattr(finalists, "train_part", dies)
    with pytest.raises(KeyboardInterrupt):
        at_chosen_size(begin(tmp_path / "run", images))
    monkeypatch.setattr(image_size, "before_search", None)  # what was proposed is kept
    opened = open_run(tmp_path / "run", NullReporter())
    assert at_chosen_size(opened).image_size == winner_of(record_of(run)).image_size
    found, whole = record_of(opened), record_of(run)
    assert (found.winner, found.scores) == (whole.winner, whole.scores)
    assert (found.archs, found.space) == (whole.archs, whole.space)


def test_a_single_side_is_not_compared(images: Path, tmp_path: Path) -> None:
    run = begin(tmp_path / "run", images, flops=270_000)
    assert run.image_sizes == (32,)
    assert run.data.image_size == 32
    assert at_chosen_size(run) is run
    assert record_of(run).scores == []
    assert not (run.folder / "search/image-size").exists()


def test_a_run_of_any_side_is_like_one_of_a_given_side(
    run: Run, images: Path, tmp_path: Path
) -> None:
    check_alike([run, begin(tmp_path / "run", images, image_size=32)])


def test_a_dry_run_says_what_there_is_to_choose(images: Path) -> None:
    found = dry_run(Request(**ASKED | {"data": str(images)}), NullReporter())
    assert "--image-size auto chooses from 32, 48; costs are at 48" in found.remarks
    assert found.seconds["image size"] > 0


def test_the_estimate_counts_the_networks_of_all_sides(micro_images: ImageData) -> None:
    speeds = Speeds(weight_step=0, alpha_step=0, supernet_image=0, step=1.0, image=0.0, export=0.0)
    settings = Request(**ASKED | {"random": 0, "epochs": 10}).settings(100)
    found = parts(settings, micro_images, speeds, 2, sides=3)
    # of three steps an epoch: three networks have two epochs, two of them two more
    assert found["image size"] == 3 * (3 * 2 + 2 * 2)
    assert found["baselines"] == 2 * 3 * 10 + 2 * found["image size"]
