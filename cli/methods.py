"""`mobilenas methods`: shows the presets of `--method`."""

import textwrap
from typing import TYPE_CHECKING

import click

from .command import Command
from .options import json_option
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.search.methods import Method


_MEASURED = (
    "Measured (docs/results/methods.md): no method's alphas rank networks well, chosen channels "
    "are not shown to beat random ones, and finalists decide by default."
)


@click.command(cls=Command, name="methods")
@json_option
def command(as_json: bool) -> None:
    """Show the search methods, their parts, and what they were published to improve."""
    from mobilenas.core.settings import to_plain
    from mobilenas.search.methods import METHODS

    from .render import show_json

    if as_json:
        show_json({name: to_plain(method) for name, method in METHODS.items()})
        return
    for name, method in METHODS.items():
        echo(name)
        for label, words in (
            ("parts", _parts(method)),
            ("improves", method.improves),
            ("paper", method.paper),
        ):
            lines = textwrap.wrap(words, 68, break_on_hyphens=False)
            echo(f"  {label:10}" + f"\n{' ' * 12}".join(lines))
    echo("\nEntropy on edges, edge weights and the zero operation are parts of --space cell.")
    echo(click.wrap_text(_MEASURED, 80))


def _parts(method: "Method") -> str:
    """Return the parts as options."""
    sampler, tau = method.sampler, method.temperature
    parts = [f"--sampler {sampler.name}"]
    if sampler.attention:
        parts.append(f"--attention {sampler.attention}")
    if sampler.partial > 1:
        parts.append(f"--channel-fraction 1/{sampler.partial}")
    parts.append(f"--temperature {tau.start:g}" + f":{tau.end:g}" * (tau.end != tau.start))
    if method.entropy.weight:
        parts.append(f"--entropy {method.entropy.weight:g}")
        parts.append(f"--entropy-terms {','.join(method.entropy.terms)}")
    parts.append(f"--sampling {method.sampling}")
    if method.edge_weights != "none":
        parts.append(f"--edge-weights {method.edge_weights}")
    parts += ["--zero-op"] if method.zero_op else []
    if 2 in method.orders:
        parts.append("--order 1|2")
    return " ".join(parts)
