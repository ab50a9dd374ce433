"""What can be known before the images are decoded is refused before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.data import folder as data_folder
from mobilenas.latency.profile import Profile, write_profile
from mobilenas.pipeline import starting
from mobilenas.pipeline.ablation import start_ablation
from mobilenas.pipeline.dry_run import dry_run
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.request_channels import ChannelsRequest
from mobilenas.pipeline.starting import start
from mobilenas.pipeline.sweep import start_sweep


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Images of several sizes, of which none may be decoded."""
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(8):
            image = Image.new("RGB", (300, 200 + number))
            image.save(tmp_path / "photos" / label / f"{number}.png")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("images are decoded")

    monkeypatch.setattr(data_folder, "read_pixels", refuse)
    return str(tmp_path / "photos")


def begin(kind: type[Request], **asked: Any) -> None:
    start(Path("nowhere"), kind(**asked), command="test", reporter=NullReporter())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "no budget"),
    ({"flops": 10**8, "channel_fraction": "1/3"}, "channel_fraction '1/3' cannot be read"),
    ({"flops": 10**8, "temperature": "hot"}, "temperature 'hot' cannot be read"),
    ({"flops": 10**8, "temperature": ""}, "temperature '' cannot be read"),
    ({"flops": 10**8, "rank": 1}, "rank is 1; it must be 0 or between 3 and 10000"),
    ({"flops": 10**8, "rank": 2}, "rank is 2; it must be 0 or"),
    ({"space": "cell", "rank": 2}, "rank is 2; it must be 0 or"),
    ({"flops": 10**8, "rank": 10_001}, "rank is 10001; it must be 0 or"),
    ({"flops": 10**8, "warmup": 6, "search_epochs": 5}, "warmup is 6; it must be between 0 and 5"),
    ({"flops": 10**8, "order": 2}, "--order 2 is not published for mobilenas"),
    ({"flops": 10**8, "seeds": 0}, "seeds is 0"),
    ({"flops": 10**8, "baselines": ("resnet",)}, "baseline is 'resnet'"),
    ({"flops": 10**8, "profile": "no-such-device"}, "no-such-device"),
    ({"space": "cell", "edges": "many"}, "many"),
    ({"space": "cell", "search_channels": 2}, "is no channel"),
    # from the headers alone
    ({"flops": 2_000_000}, "flops <= 2M"),
    ({"flops": 50 * 10**12}, r"flops <= 5e\+04G|flops <= 50000G"),
    ({"memory": 1000}, "memory <= 1k"),
]


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_a_request_is_refused_before_an_image_is_decoded(
    photos: str, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(MobileNASError, match=message):
        begin(Request, data=photos, **asked)


def test_a_missing_device_is_refused_before_an_image_is_decoded(
    photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MobileNASError, match="--device cuda: torch finds no CUDA device here"):
        begin(Request, data=photos, flops=10**8, device="cuda")
    with pytest.raises(MobileNASError, match="--device cuda"):
        dry_run(Request(data=photos, flops=10**8, device="cuda"), NullReporter())


@pytest.mark.parametrize(("size", "precision"), [(None, "fp32"), (64, "fp32"), (8, "int8")])
def test_a_profile_without_the_size_or_precision_is_refused_before_an_image_is_decoded(
    photos: str, made_up_profile: Profile, tmp_path: Path, size: int | None, precision: str
) -> None:
    write_profile(made_up_profile, tmp_path / "shelf.json")
    asked = {"data": photos, "latency": 1e4, "profile": str(tmp_path / "shelf.json")}
    lacks = "has no int8 times" if precision == "int8" else f"for {size or 224}x{size or 224}"
    with pytest.raises(MobileNASError, match=lacks):
        begin(Request, image_size=size, precision=precision, **asked)


def test_budgets_of_the_user_s_model_are_checked_before_an_image_is_decoded(photos: str) -> None:
    asked = {"data": photos, "model": "torchvision:mobilenet_v3_small", "image_size": 64}
    with pytest.raises(MobileNASError, match="flops <= 1k"):
        begin(ChannelsRequest, flops=1000, **asked)


def test_channel_sizes_inherit_nothing_from_a_supernet(photos: str) -> None:
    with pytest.raises(MobileNASError, match="--inherit does not work with the space channels"):
        begin(ChannelsRequest, data=photos, model="torchvision:nothing", flops=1, inherit=True)


def test_the_side_that_helps_is_named_for_cells_and_the_user_s_model_too(photos: str) -> None:
    helps = r"allow --flops [0-9.]+M, or --image-size {} \(images are 224x224 now\)"
    with pytest.raises(BudgetError, match=helps.format(64)):
        begin(Request, data=photos, space="cell", flops=2_000_000)
    asked = {"data": photos, "model": "torchvision:mobilenet_v2"}
    with pytest.raises(BudgetError, match=helps.format(112)):
        begin(ChannelsRequest, flops=2_000_000, **asked)
    with pytest.raises(BudgetError, match=r"allow --params [0-9.]+k \(images are 224x224 now\)"):
        begin(ChannelsRequest, params=2000, **asked)


def test_all_budgets_that_cannot_be_kept_are_named_at_once(photos: str) -> None:
    short = r"allow --flops 5\.1M; params <= 2k.*; allow --params 3\.6k \(images"
    with pytest.raises(BudgetError, match=short):
        begin(Request, data=photos, flops=2_000_000, params=2000)


NO_MODELS: list[tuple[dict[str, Any], str]] = [
    ({"model": "nothing"}, "model is 'nothing': no pretrained network, run folder or arch.json"),
    ({"model": "torchvision:mobilenet_v9"}, "torchvision has no classification model"),
    ({"model": "no_such_module:build"}, "cannot import no_such_module"),
    ({"model": "json:build"}, "json has no 'build'"),
    ({"model": "."}, r"arch\.json does not exist"),
    ({"model": "torchvision:resnet18", "weights": Path("none.safetensors")}, "does not exist"),
]


@pytest.mark.parametrize(("asked", "message"), NO_MODELS)
def test_a_model_or_weights_that_are_not_there_are_refused_before_the_folder_is_looked_at(
    asked: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the folder is looked at")

    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starting, "load_data", refuse)
    with pytest.raises(MobileNASError, match=message):
        begin(ChannelsRequest, data="photos", flops=10**8, **asked)


def test_every_budget_of_a_sweep_is_checked_before_an_image_is_decoded(
    photos: str, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="flops-2M: flops <= 2M"):
        start_sweep(
            tmp_path / "sweep",
            {"data": photos},
            flops=(20_000_000, 2_000_000),
            command="test",
            reporter=NullReporter(),
        )


def test_the_numbers_of_a_ranking_are_checked_in_sweeps_and_ablations_too(
    photos: str, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {"command": "test", "reporter": NullReporter()}
    asked = {"data": photos, "rank": 2}
    with pytest.raises(MobileNASError, match="rank is 2"):
        start_sweep(tmp_path / "sweep", asked, flops=(10**8,), **shared)
    with pytest.raises(MobileNASError, match="rank is 2"):
        request = Request(data=photos, rank=2, flops=10**8)
        start_ablation(tmp_path / "ablation", request, "mobilenas,random", **shared)


@pytest.mark.parametrize(
    ("methods", "asked", "message"),
    [
        (
            "mobilenas,mobilenas:channel_fraction=1/3",
            {"flops": 10**8},
            "variant mobilenas:channel_fraction=1/3",
        ),
        ("mobilenas,random", {"flops": 2_000_000}, "flops <= 2M"),
        ("darts,pc-darts", {"space": "cell", "flops": 1000}, "flops <= 1k"),
    ],
)
def test_every_arm_of_an_ablation_is_checked_before_an_image_is_decoded(
    photos: str, tmp_path: Path, methods: str, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(MobileNASError, match=message):
        start_ablation(
            tmp_path / "ablation",
            Request(data=photos, **asked),
            methods,
            command="test",
            reporter=NullReporter(),
        )


@pytest.mark.parametrize(
    ("asked", "hints"),
    [
        ({"flops": 2_000_000}, ["--flops 5.1M", "--image-size 128", "224x224 now"]),
        ({"flops": 300_000, "image_size": 64}, ["--flops 450k", "--image-size 32", "64x64 now"]),
        ({"flops": 1000, "image_size": 64}, ["--flops 450k", "64x64 now"]),
    ],
)
def test_a_budget_that_is_too_small_says_what_helps(
    photos: str, asked: dict[str, Any], hints: list[str]
) -> None:
    with pytest.raises(BudgetError) as caught:
        begin(Request, data=photos, **asked)
    assert all(hint in str(caught.value) for hint in hints)
    assert str(caught.value).count("--image-size") == sum("--image-size" in hint for hint in hints)


@pytest.mark.parametrize("change", [{"flops": 5_100_000}, {"image_size": 128}])
def test_the_budget_and_the_side_that_the_error_names_are_accepted(
    photos: str, change: dict[str, int]
) -> None:
    with pytest.raises(AssertionError, match="images are decoded"):
        begin(Request, **({"data": photos, "flops": 2_000_000} | change))
