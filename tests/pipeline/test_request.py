from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import settings_of
from mobilenas.pipeline.effort import EFFORTS, MAX_REPEATS
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.settings import RunSettings
from mobilenas.search.methods import parse_fraction
from mobilenas.spaces.cell.settings import CellSettings
from mobilenas.spaces.cell.space import EdgeTarget
from mobilenas.supernet.schedules import Temperature


def settings(images: int = 1000, **given: Any) -> RunSettings:
    return Request(**({"flops": 300_000} | given)).settings(images)


@pytest.mark.parametrize(("text", "k"), [("1", 1), ("1/1", 1), ("1/2", 2), ("1/4", 4), ("1/8", 8)])
def test_keep_is_read(text: str, k: int) -> None:
    assert parse_fraction(text) == k


@pytest.mark.parametrize("text", ["", "4", "1/3", "1/16", "2/4", "1/", "/4", "0.25", "1/4/1"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(MobileNASError, match="write 1, 1/2, 1/4 or 1/8"):
        parse_fraction(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no budget is set: use --flops, --params, --memory or --latency"),
        ({"flops": 0}, "flops budget is 0; it must be above zero"),
        ({"flops": 1, "effort": "great"}, "effort is 'great'; it must be one of quick"),
        ({"flops": 1, "epochs": 0}, "epochs is 0"),
        ({"flops": 1, "search_epochs": -1}, "--search-epochs is -1"),
        ({"latency": 8.0}, "a latency budget needs the profile of a device: use --profile NAME"),
        ({"flops": 1, "precision": "fp16"}, "precision is 'fp16'; it must be one of fp32, int8"),
        ({"flops": 1, "space": "chain"}, "space is 'chain'; it must be one of mobile, cell"),
        ({"flops": 1, "method": "dartz"}, "method is 'dartz'; it must be one of darts, pc-darts"),
        ({"limits": ("flops=1k",)}, "--limits has 'flops=1k'; flops has an option of its own"),
        ({"flops": 1, "edges": "3/14"}, "--edges.*--space mobile"),
        ({"flops": 1, "edge_weights": "none"}, "--edge-weights.*--space mobile"),
        ({"flops": 1, "zero_op": False}, "--zero-op.*--space mobile"),
        ({"flops": 1, "entropy_terms": "edges"}, "--entropy-terms edges.*--space mobile"),
        ({"flops": 1, "search_layers": 3}, "--search-layers.*--space mobile"),
        ({"space": "cell", "squeeze": "on"}, "--squeeze.*--space cell"),
        ({"params": 1, "prior": True}, "--prior is for --flops, and not for --constraint penalty"),
        (
            {"flops": 1, "prior": True, "constraint": "penalty", "strength": 1.0},
            "--prior is for --flops, and not for --constraint penalty",
        ),
        ({"space": "cell", "prior": True}, "--prior.*--space cell"),
        ({"space": "cell", "extra_depthwise": "on"}, "--extra-depthwise.*--space cell"),
        ({"space": "cell", "inherit": True}, "--inherit.*--space cell"),
        ({"space": "cell", "operations": ("mean",)}, "--operations.*--space cell"),
        ({"limits": ("activations",)}, "limits has 'activations'; write NAME=SIZE"),
        ({"limits": ("activations=1k",)}, "cost is 'activations'; it must be one of flops"),
        (
            {"flops": 1, "extra_depthwise": "searched", "profile": "phone"},
            "--extra-depthwise searched.*--profile",
        ),
        ({"space": "cell", "activation": "relu"}, "--activation.*--space cell"),
        ({"space": "cell", "memory": 9}, "--memory.*--space cell"),
        ({"space": "cell", "latency": 9.0}, "--latency.*--space cell"),
        ({"flops": 1, "targets": ("tpu",)}, "targets has 'tpu'; it must be one of cpu, xnnpack"),
        (
            {"flops": 1, "targets": ("cpu", "nnapi"), "activation": "hard_swish"},
            "--activation hard_swish.*--targets nnapi.*HardSigmoid.*relu6",
        ),
        (
            {"flops": 1, "targets": ("nnapi",), "squeeze": "searched"},
            "--squeeze searched.*--targets nnapi",
        ),
        (
            {"space": "cell", "sampling": "single-path"},
            "--sampling single-path does not work with --space cell",
        ),
    ],
)
def test_requests_are_checked_before_the_images_are_read(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(MobileNASError, match=message):
        Request(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampling": "all"}, "sampling is 'all'; it must be one of gumbel, softmax, single-path"),
        ({"sampler": "full", "channel_fraction": "1/4"}, "full takes every channel"),
        ({"sampler": "random", "channel_fraction": "1/3"}, "channel_fraction '1/3' cannot be read"),
        ({"temperature": "hot"}, "temperature 'hot' cannot be read"),
        ({"constraint": "hope"}, "constraint is 'hope'"),
        ({"strength": -1.0}, "--strength is -1"),
        ({"entropy": -1.0}, "--entropy is -1"),
        ({"finalists": -1}, "--finalists is -1"),
        ({"baselines": ["resnet"]}, "baseline is 'resnet'"),
        ({"seed": 2**31}, "--seed is 2147483648; it must be between 0 and 2147483647"),
        ({"seeds": 1.5}, "--seeds is 1.5; it must be a whole number"),
        (
            {"space": "cell", "method": "adarts", "channel_fraction": "1/8", "search_channels": 4},
            "--channel-fraction 1/8 of --search-channels 4 is no channel",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        settings(**given)


def test_every_budget_is_passed_on() -> None:
    asked = Request(flops=3, params=2, memory=1)
    assert {b.cost: b.limit for b in asked.budgets} == {"flops": 3, "params": 2, "memory": 1}
    assert asked.settings(1000).budgets == asked.budgets
    assert [b.cost for b in Request(params=2).budgets] == ["params"]


def test_what_was_said_is_what_is_done() -> None:
    full = settings(
        epochs=7,
        search_epochs=5,
        sampling="softmax",
        sampler="random",
        channel_fraction="1/2",
        temperature="2:0.5",
        entropy=0.25,
        entropy_schedule="step",
        constraint="hinge",
        strength=3.0,
        finalists=9,
        baselines=["mobilenet_v2"],
        random=4,
        random_search=True,
        equal_time=True,
        inherit=True,
        rank=6,
        seed=8,
        seeds=2,
        threads=3,
        squeeze="off",
        activation="relu",
        dynamic_batch=True,
        image_size=16,
        flip=True,
    )
    search = full.search
    assert (full.recipe.epochs, search.epochs) == (7, 5)
    assert (search.sampling, search.constraint, search.strength) == ("softmax", "hinge", 3.0)
    assert (search.sampler.name, search.sampler.partial) == ("random", 2)
    assert search.temperature == Temperature(start=2.0, end=0.5)
    assert (search.entropy.weight, search.entropy.shape) == (0.25, "step")
    assert full.finalists.count == 9
    assert full.baselines == ("mobilenet_v2",)
    assert (full.random, full.random_search, full.rank, full.seed, full.seeds) == (4, True, 6, 8, 2)
    assert (full.threads, full.squeeze, full.activation) == (3, "off", "relu")
    assert full.dynamic_batch and full.equal_time and full.inherit
    assert not settings().inherit
    assert settings().extra_depthwise == "searched"
    assert settings(extra_depthwise="on").extra_depthwise == "on"
    assert settings(profile="phone").extra_depthwise == "off"
    assert settings(space="cell").extra_depthwise == "off"
    assert (full.data.source, full.data.image_size, full.data.flip) == ("digits", 16, True)


def test_cells_need_no_budget_and_have_no_finalists_of_their_own() -> None:
    plain = Request(space="cell", method="da2s").settings(1000)
    assert plain.budgets == ()
    assert plain.finalists.count == 0
    assert plain.method == "da2s"
    assert plain.search.edge_weights == "clipped"
    said = Request(
        space="cell",
        method="darts",
        edges="3/14",
        layers=5,
        channels=8,
        search_layers=3,
        search_channels=4,
        auxiliary=True,
        drop_path=0.2,
        finalists=4,
        order=2,
        zero_op=False,
    ).settings(1000)
    assert said.cell == CellSettings(
        edges=EdgeTarget(kept=3, of="cell"),
        layers=5,
        channels=8,
        search_layers=3,
        search_channels=4,
        auxiliary=True,
        drop_path=0.2,
    )
    assert (said.finalists.count, said.search.order, said.search.zero_op) == (4, 2, False)


def test_zero_is_not_unsaid() -> None:
    full = settings(entropy=0.0, finalists=0, random=0, seed=0, strength=0.0)
    assert full.search.entropy.weight == 0
    assert full.search.strength == 0
    assert full.finalists.count == 0
    assert full.random == 0


def test_the_full_sampler_takes_every_channel() -> None:
    for keep in (None, "1", "1/1"):
        sampler = settings(sampler="full", channel_fraction=keep).search.sampler
        assert (sampler.name, sampler.partial) == ("full", 1)


@given(st.sampled_from(sorted(EFFORTS)), st.integers(1, 200_000))
def test_efforts_give_settings_for_any_number_of_images(effort: str, images: int) -> None:
    full = settings(images, effort=effort)
    level = EFFORTS[effort]
    assert full.recipe.epochs >= level.epochs
    most = MAX_REPEATS * level.epochs
    assert full.recipe.epochs <= most
    steps = full.recipe.epochs * max(1, images // full.recipe.batch_size)
    assert steps >= level.min_steps or full.recipe.epochs == most
    assert full.finalists.count == level.finalists
    longer = settings(images, effort=effort, method="darts").search
    assert longer.epochs > full.search.epochs >= 1
    rates = {128: 0.5, 32: 0.05}  # what suits many images is too much for few
    assert full.recipe.learning_rate == rates[full.recipe.batch_size]
    assert full.finalists.epochs >= 2  # after one, hard images are still guessed
    assert 0 < full.search.warmup <= full.search.epochs
    assert 2 <= full.search.batch_size <= full.recipe.batch_size
    assert 0 < full.search.learning_rate <= full.recipe.learning_rate


def test_a_recipe_is_for_final_training_and_not_for_the_supernet() -> None:
    usual = settings(1000)
    chosen = settings(1000, recipe="cifar-darts", set=("mixup=0.3", "optimizer=adamw"))
    recipe = chosen.recipe
    assert (recipe.batch_size, recipe.random_erasing, recipe.mixup) == (96, 1.0, 0.3)
    assert recipe.optimizer == "adamw"
    assert recipe.epochs == 120  # 1,200 steps of 10 in a pass
    assert (chosen.search.batch_size, chosen.search.learning_rate) == (16, 0.025)
    assert settings(1000, recipe="scratch-small") == usual
    assert settings(1000, set=("mixup=0",)) == usual


def test_cells_train_at_a_lower_rate_than_the_mobilenets_beside_them() -> None:
    cells = settings(10_000, space="cell")
    assert (cells.recipe.learning_rate, cells.baseline_recipe.learning_rate) == (0.2, 0.5)
    assert replace(cells.recipe, learning_rate=0.5) == cells.baseline_recipe
    assert settings(10_000).scratch_recipe is None
    assert settings(1000, space="cell").scratch_recipe is None
    given = settings(10_000, space="cell", recipe="scratch-small")
    assert (given.recipe.learning_rate, given.scratch_recipe) == (0.5, None)
    assert settings(10_000, space="cell", set=("learning_rate=0.1",)).scratch_recipe is None


def test_compiling_is_part_of_the_recipe() -> None:
    assert not settings().recipe.compile
    assert settings(compile=True).recipe == replace(settings().recipe, compile=True)
    tuned = settings(compile=True, pretrained="mobilenet_v2", image_size=64)
    assert tuned.recipe.compile
    assert tuned.scratch_recipe is not None
    assert tuned.scratch_recipe.compile


def test_a_wrong_recipe_is_refused_by_name() -> None:
    with pytest.raises(MobileNASError, match="recipe is 'foto'; it must be one of scratch-small"):
        settings(recipe="foto")
    with pytest.raises(MobileNASError, match="amp is 'float16'; that is for --device cuda"):
        settings(set=("amp=float16",))


def test_more_effort_is_more_training() -> None:
    for images in (500, 50_000):
        epochs = [
            settings(images, effort=effort).recipe.epochs
            for effort in ("quick", "standard", "full")
        ]
        assert epochs == sorted(set(epochs))


def test_few_images_are_not_passed_over_without_end() -> None:
    # 60 training images are one step of 32: 300 of them would be 300 epochs
    assert settings(60, effort="quick").recipe.epochs == 60
    assert settings(60, effort="standard").recipe.epochs == 150
    assert settings(60, effort="quick").search.epochs == 4
    assert settings(60, effort="quick", method="mobilenas").search.epochs == 4
    assert settings(60, effort="quick", method="cpm").search.epochs == 24
    assert settings(60, effort="quick", space="cell").search.epochs == 24
    assert settings(60, effort="quick", prior=False).search.epochs == 4
    for said in (
        {"entropy": 0.2},
        {"sampler": "ranked"},
        {"strength": 2.0},
        {"rank": 3},
        {"finalists": 0},
    ):
        assert settings(60, effort="quick", **said).search.epochs == 24
    assert settings(1000, effort="quick").recipe.epochs == 10
    assert settings(60, effort="quick", epochs=400).recipe.epochs == 400


def test_earlier_networks_have_a_say_in_the_default_alone() -> None:
    assert settings(60).search.prior
    assert settings(60, method="cpm", prior=True).search.prior
    for said in ({"prior": False}, {"method": "cpm"}, {"space": "cell"}):
        assert not settings(60, **said).search.prior


def test_every_field_is_a_setting() -> None:
    assert [one.name for one in settings_of(Request)] == [field.name for field in fields(Request)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_target_without_the_gate_leaves_out_what_needs_it(precision: str) -> None:
    usual = settings(precision=precision)
    taken = settings(precision=precision, targets=("cpu", "qnn"))
    assert taken == usual
    assert usual.squeeze == "on"
    assert settings(precision=precision, params=9000).squeeze == "searched"
    narrowed = settings(precision=precision, targets=("nnapi",))
    assert narrowed == replace(usual, activation="relu", squeeze="off")
    chosen = settings(precision=precision, targets=("nnapi",), activation="relu6", squeeze="off")
    assert chosen.activation == "relu6"
