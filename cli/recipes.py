"""`mobilenas recipes`: shows the values of `--recipe`."""

import textwrap

import click

from .command import Command
from .options import json_option
from .terminal import echo


@click.command(cls=Command, name="recipes")
@json_option
def command(as_json: bool) -> None:
    """Show the training recipes, field by field."""
    from mobilenas.core.setting import settings_of
    from mobilenas.train.recipe import MAX_EPOCHS, Recipe
    from mobilenas.train.recipes import RECIPES, SMALL_SET

    from .render import show_json, show_table

    names = [one.name for one in settings_of(Recipe)]
    usual, small = (
        {
            name: {field: getattr(recipe, field) for field in names}
            for name, one in RECIPES.items()
            for recipe in [Recipe(epochs=MAX_EPOCHS, **one.for_images(images))]
        }
        for images in (SMALL_SET, SMALL_SET - 1)
    )
    if as_json:
        show_json(
            {
                name: {
                    "purpose": one.purpose,
                    "paper": one.paper,
                    "fields": usual[name],
                    "small_set": {
                        field: value
                        for field, value in small[name].items()
                        if value != usual[name][field]
                    },
                }
                for name, one in RECIPES.items()
            }
        )
        return

    def cell(name: str, field: str) -> str:
        values = dict.fromkeys((usual[name][field], small[name][field]))
        return "/".join(map(_shown, values))

    rows = ((field, *(cell(name, field) for name in RECIPES)) for field in names)
    show_table("Recipes", ("field", *RECIPES), rows)
    for name, one in RECIPES.items():
        lines = textwrap.wrap(f"{name}: {one.purpose} ({one.paper})", 80, break_on_hyphens=False)
        echo("\n  ".join(lines))
    notes = (
        f"A/B: B on sets of fewer than {SMALL_SET:,} training images. -: none, or what images and "
        "device decide. Epochs are left to --effort and --epochs. --set FIELD=VALUE changes a "
        "field; docs/reference.md says what each means."
    )
    echo(click.wrap_text(notes, 80))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
