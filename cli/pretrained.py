"""`mobilenas pretrained`: lists pretrained networks."""

import textwrap

import click

from .command import Command
from .options import RULE, json_option
from .terminal import echo


@click.command(cls=Command, name="pretrained", epilog=RULE)
@json_option
def command(as_json: bool) -> None:
    """List pretrained networks, and where their weights are."""
    from mobilenas.core.settings import format_count
    from mobilenas.train.pretrained import SOURCES

    from .render import show_json, show_rule, show_table

    found = {name: source.find() for name, source in SOURCES.items()}
    if as_json:
        shown = ("params", "flops", "image_size", "mean", "std", "top1", "citation", "license")
        more = ("classes", "origin")
        show_json(
            {
                name: {key: getattr(source, key) for key in (*shown, *more)} | {"file": found[name]}
                for name, source in SOURCES.items()
            }
        )
        return
    show_table(
        "Pretrained networks",
        ("network", "params", "FLOPs", "side", "top-1 %", "license", "here"),
        (
            (
                name,
                format_count(source.params),
                format_count(source.flops),
                str(source.image_size),
                "-" if source.top1 is None else f"{source.top1:.1f}",
                source.license,
                "yes" if found[name] else "no",
            )
            for name, source in SOURCES.items()
        ),
        words=("license",),
    )
    echo("top-1: as published, on ImageNet's validation images. Weights:")
    for name, source in SOURCES.items():
        where = f"{name}: {found[name] or source.advice}"
        # paths and URLs are not broken
        lines = textwrap.wrap(where, 80, break_on_hyphens=False, break_long_words=False)
        echo("\n  ".join(lines))
    echo("A run folder can be used as one, too.")
    show_rule()
