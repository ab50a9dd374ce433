import math
from dataclasses import replace

import pytest
import torch

from mobilenas.core.errors import MobileNASError
from mobilenas.data import DataSettings, ImageData, load_data, stratified_subset
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.networks import build
from mobilenas.train import Recipe, Trainer
from mobilenas.train.recipes import RECIPES, NamedRecipe, fields_of

ARCH = MobileArch(
    image_size=8,
    in_channels=3,
    classes=10,
    stem=Stem(channels=8, stride=1, activation="relu"),
    blocks=(Block(kernel=3, hidden=16, out=8, stride=2, squeeze=0, activation="relu"),),
    head=Head(channels=16, hidden=0, activation="relu", dropout=0.0),
)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DataSettings(source="digits"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_the_same_twice(name: str, data: ImageData) -> None:
    few = stratified_subset(data.train, 192, 0)
    recipe = Recipe(epochs=1, **fields_of(name, len(few)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = build(ARCH).state_dict()
    losses = []
    for _ in range(2):
        network = build(ARCH)
        network.load_state_dict(start)
        trainer = Trainer(ARCH, data, recipe, seed=0, split=few, network=network)
        losses.append(trainer.run_epoch()["loss"])
    assert losses[0] == losses[1]
    assert 0.5 < losses[0] < 2 * math.log(10)


@pytest.mark.parametrize(("images", "batch", "rate"), [(4999, 32, 0.05), (5000, 128, 0.5)])
def test_small_sets_have_smaller_steps_unless_the_recipe_says_them(
    images: int, batch: int, rate: float
) -> None:
    for name in ("scratch-small", "photo"):
        fields = fields_of(name, images)
        assert (fields["batch_size"], fields["learning_rate"]) == (batch, rate)
    assert fields_of("cifar-darts", images)["batch_size"] == 96
    assert fields_of("photo", images, ["batch_size=64"])["batch_size"] == 64


def test_fields_are_changed_by_text() -> None:
    texts = ("mixup=0", " optimizer = adamw", "crop_scale=None", "trivialaugment=false")
    fields = fields_of("photo", 100, (*texts, "amp=none", "randaugment=2", "weight_decay=5e-2"))
    assert Recipe(epochs=3, **fields) == Recipe(
        epochs=3,
        batch_size=32,
        learning_rate=0.05,
        optimizer="adamw",
        weight_decay=0.05,
        randaugment=2,
        random_erasing=0.1,
        cutmix=0.2,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mixup", "'mixup' is not FIELD=VALUE"),
        ("mixop=1", "field of the recipe is 'mixop'; it must be one of batch_size, learning_rate"),
        ("epochs=3", "field of the recipe is 'epochs'; it must be one of"),
        ("mixup=-1", "mixup is -1.0; it must be between 0 and 100"),
        ("mixup=nan", "mixup is nan; it must be between 0 and 100"),
        ("mixup=much", "mixup is 'much'; it must be a number"),
        ("mixup=none", "mixup is 'none'; it must be a number"),
        ("batch_size=1", "batch_size is 1; it must be between 2 and 1000000"),
        ("batch_size=2.5", "batch_size is '2.5'; it must be a whole number"),
        ("freeze_norms=maybe", "freeze_norms is 'maybe'; it must be true or false"),
        ("optimizer=lion", "optimizer is 'lion'; it must be one of sgd, adamw"),
        ("amp=int8", "amp is 'int8'; it must be one of off, bfloat16, float16 or none"),
        ("crop_scale=x", "crop_scale is 'x'; it must be a number or none"),
    ],
)
def test_a_wrong_change_names_field_value_and_what_is_legal(change: str, message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        fields_of("photo", 100, [change])


def test_a_field_is_changed_once() -> None:
    with pytest.raises(MobileNASError, match="mixup is set more than once"):
        fields_of("photo", 100, ["mixup=0", "mixup=1"])


def test_parts_that_exclude_each_other_are_refused_with_the_recipe_they_change() -> None:
    fields = fields_of("photo", 100, ["crop_padding=4"])
    with pytest.raises(MobileNASError, match="a crop is shifted or resized, not both"):
        Recipe(epochs=3, **fields)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(MobileNASError, match="recipe is 'foto'; it must be one of scratch-small"):
        fields_of("foto", 100)


def test_a_recipe_with_a_wrong_field_cannot_be_made() -> None:
    with pytest.raises(MobileNASError, match="mixup is 200; it must be between 0 and 100"):
        NamedRecipe(purpose="none", fields={"mixup": 200})
    with pytest.raises(MobileNASError, match="field of the recipe is 'mixop'"):
        NamedRecipe(purpose="none", fields={"mixop": 1})


def test_the_default_is_the_recipe_without_a_name() -> None:
    plain = Recipe(epochs=7)
    assert Recipe(epochs=7, **fields_of("scratch-small", 5000)) == plain
    small = replace(plain, batch_size=32, learning_rate=0.05)
    assert Recipe(epochs=7, **fields_of("scratch-small", 4000)) == small
