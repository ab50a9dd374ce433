import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import from_plain, to_plain, to_plain_without_added
from mobilenas.train import Recipe

RECIPE = Recipe(epochs=10, warmup_epochs=2.0, learning_rate=0.4)


def test_the_rate_rises_to_its_peak_and_falls_to_zero():
    assert RECIPE.learning_rate_at(0.0) == 0.0
    assert RECIPE.learning_rate_at(0.5) == pytest.approx(0.1)
    assert RECIPE.learning_rate_at(2.0) == pytest.approx(0.4)
    assert RECIPE.learning_rate_at(6.0) == pytest.approx(0.2)
    assert RECIPE.learning_rate_at(4.0) == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert RECIPE.learning_rate_at(10.0) == pytest.approx(0.0, abs=1e-12)


def test_a_warm_up_may_be_absent_a_fraction_or_all_there_is():
    assert Recipe(epochs=1, warmup_epochs=0, learning_rate=0.3).learning_rate_at(0) == 0.3
    half = Recipe(epochs=1, warmup_epochs=0.5, learning_rate=0.3)
    assert half.learning_rate_at(0.25) == pytest.approx(0.15)
    assert half.learning_rate_at(0.75) == pytest.approx(0.15)
    rising = Recipe(epochs=1, warmup_epochs=1, learning_rate=0.3)
    assert rising.learning_rate_at(0.99) == pytest.approx(0.297)


def test_the_average_forgets_its_start_fast_and_then_slowly():
    recipe = Recipe(epochs=1, warmup_epochs=0, ema_decay=0.9)
    assert recipe.ema_decay_at(1) == pytest.approx(2 / 11)
    assert recipe.ema_decay_at(10) == pytest.approx(11 / 20)
    assert recipe.ema_decay_at(10_000) == 0.9


@given(
    epochs=st.integers(1, 1000),
    learning_rate=st.floats(1e-6, 10),
    weight_decay=st.floats(0, 0.1),
    crop_padding=st.none() | st.integers(0, 64),
    share=st.floats(0, 1),
)
def test_a_recipe_survives_json(epochs, learning_rate, weight_decay, crop_padding, share):
    recipe = Recipe(
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        crop_padding=crop_padding,
        warmup_epochs=epochs * share,
    )
    assert from_plain(Recipe, json.loads(json.dumps(to_plain(recipe))), "recipe") == recipe
    rates = [recipe.learning_rate_at(epochs * part / 16) for part in range(17)]
    assert all(0 <= rate <= learning_rate for rate in rates)


@pytest.mark.parametrize(
    "field",
    [
        {"epochs": 0},
        {"epochs": 2.5},
        {"epochs": True},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"label_smoothing": 1.0},
        {"warmup_epochs": 6},
        {"ema_decay": 1.0},
        {"crop_padding": -1},
        {"crop_padding": 1.5},
        {"randaugment": -1},
        {"gradient_clip": 0},
        {"optimizer": "lion"},
        {"backbone_rate": 1.5},
        {"crop_scale": 0.0},
        {"crop_scale": 0.5, "crop_padding": 4},
        {"trivialaugment": True, "randaugment": 1},
        {"random_erasing": -0.1},
        {"mixup": 101},
        {"cutmix": float("inf")},
        {"amp": "int8"},
    ],
)
def test_a_wrong_value_is_named(field):
    with pytest.raises(MobileNASError, match=next(iter(field))):
        Recipe(**({"epochs": 5} | field))


def test_a_recipe_of_an_older_release_is_read_and_written_as_it_was():
    older = {
        "epochs": 5,
        "batch_size": 32,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 4e-5,
        "label_smoothing": 0.1,
        "warmup_epochs": 1.0,
        "ema_decay": 0.98,
        "crop_padding": None,
        "randaugment": 0,
        "gradient_clip": 5.0,
    }
    recipe = from_plain(Recipe, older, "recipe")
    assert recipe == Recipe(epochs=5, batch_size=32, learning_rate=0.05)
    assert to_plain_without_added(recipe) == older
    assert to_plain_without_added(replace(recipe, mixup=0.2)) == older | {"mixup": 0.2}


def test_mixed_precision_is_for_a_gpu():
    assert RECIPE.amp_on("cpu") == "off"
    assert RECIPE.amp_on("cuda") == "bfloat16"
    half = replace(RECIPE, amp="float16")
    assert half.amp_on("cuda:1") == "float16"
    with pytest.raises(
        MobileNASError, match="amp is 'float16'; that is for --device cuda, not cpu"
    ):
        half.amp_on("cpu")


def test_augmentation_follows_the_recipe():
    assert RECIPE.augmentation().crop_padding is None
    chosen = Recipe(epochs=1, crop_padding=3, randaugment=2).augmentation()
    assert (chosen.crop_padding, chosen.randaugment, chosen.flip) == (3, 2, None)
