"""Named recipes, and changes to single fields such as `mixup=0.2`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from mobilenas.core.errors import MobileNASError
from mobilenas.core.explain import shown
from mobilenas.core.registry import Registry
from mobilenas.core.setting import Setting, settings_of
from mobilenas.core.settings import Fields, check_choice
from mobilenas.train.recipe import MAX_EPOCHS, Recipe

SMALL_SET = 5000
"""With fewer training images, batch size and learning rate are smaller."""
_SETTINGS = {one.name: one for one in settings_of(Recipe)}


def usual_rate(images: int, rate: float = 0.5) -> Fields:
    """Return batch size and peak learning rate for a number of images (docs/results/search.md).

    `rate` is that of large sets.
    """
    batch, rate = (128, rate) if images >= SMALL_SET else (32, 0.05)
    return {"batch_size": batch, "learning_rate": rate}


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A recipe of `--recipe`; the number of epochs depends on the effort."""

    purpose: str
    """What it is for, and how it differs from the published recipe."""
    fields: Mapping[str, object]
    """Fields of `Recipe`; batch size and learning rate default to `usual_rate`."""
    rate: float = 0.5
    """Peak learning rate for `usual_rate`."""
    paper: str = "this project's own"
    """Its publication."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in self.fields:
            check_choice("field of the recipe", name, tuple(_SETTINGS))
        Recipe(epochs=MAX_EPOCHS, **self.for_images(SMALL_SET))

    def for_images(self, images: int) -> Fields:
        """Return the fields for a number of training images."""
        return usual_rate(images, self.rate) | dict(self.fields)


RECIPES = Registry[NamedRecipe](
    "recipe",
    {
        "scratch-small": NamedRecipe(
            purpose="the default: short trainings from scratch on small images", fields={}
        ),
        "cells": NamedRecipe(
            purpose="networks of cells from scratch, the default with --space cell: a lower rate",
            fields={},
            rate=0.2,
        ),
        "photo": NamedRecipe(
            purpose="long trainings of larger networks from scratch, photos of 64 pixels or more",
            fields={
                "crop_scale": 0.35,
                "trivialaugment": True,
                "random_erasing": 0.1,
                "mixup": 0.2,
                "cutmix": 0.2,
            },
        ),
        "finetune": NamedRecipe(
            purpose="from pretrained weights",
            fields={
                "batch_size": 32,
                "learning_rate": 0.02,
                "warmup_epochs": 0.5,
                "norm_momentum": 0.1,
            },
        ),
        "cifar-darts": NamedRecipe(
            purpose="networks of cells on CIFAR-10; random erasing in place of cutout, Nesterov "
            "momentum, and no decay of norms, biases and depthwise kernels",
            paper="Liu, Simonyan, Yang 2019, arXiv 1806.09055",
            fields={
                "batch_size": 96,
                "learning_rate": 0.025,
                "weight_decay": 3e-4,
                "label_smoothing": 0.0,
                "warmup_epochs": 0.0,
                "ema_decay": 0.0,
                "random_erasing": 1.0,
            },
        ),
        "mobilenet": NamedRecipe(
            purpose="MobileNets on ImageNet; SGD in place of RMSProp, cosine decay in place of "
            "exponential",
            paper="Sandler et al. 2018, arXiv 1801.04381",
            fields={
                "batch_size": 96,
                "learning_rate": 0.045,
                "ema_decay": 0.9999,
                "crop_scale": 0.35,
            },
        ),
    },
)
"""Recipes by name."""
DEFAULT_RECIPE, FINETUNE = "scratch-small", "finetune"
"""The defaults: from scratch, and from pretrained weights."""


def fields_of(name: str, images: int, changes: Iterable[str] = ()) -> Fields:
    """Return the fields of a recipe for a number of training images, with changes.

    `changes`: strings such as `mixup=0.2` or `crop_scale=none`. MobileNASError says which name or
    value is wrong, and what is legal.
    """
    check_choice("recipe", name, tuple(RECIPES))
    changed = _read(changes)
    Recipe(epochs=MAX_EPOCHS, **changed)
    return RECIPES[name].for_images(images) | changed


def _read(changes: Iterable[str]) -> Fields:
    read: Fields = {}
    for change in changes:
        name, equals, text = map(str.strip, change.partition("="))
        if not equals:
            raise MobileNASError(f"{shown(change)} is not FIELD=VALUE, such as mixup=0.2")
        check_choice("field of the recipe", name, tuple(_SETTINGS))
        if name in read:
            raise MobileNASError(f"{name} is set more than once")
        read[name] = _value(_SETTINGS[name], text)
    return read


def _value(one: Setting, text: str) -> object:
    if one.default is None and text.lower() == "none":
        return None
    try:
        return msgspec.convert(text, one.kind, strict=False)
    except msgspec.ValidationError as error:
        legal = f"one of {', '.join(map(str, one.legal))}" if one.legal else _NAMES[one.kind]
        none = " or none" if one.default is None else ""
        raise MobileNASError(f"{one.name} is {shown(text)}; it must be {legal}{none}") from error


_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}
