"""Commands whose `--help` lists options in groups; rare ones are only in `--help-all`."""

from typing import Any, get_args

import click

from mobilenas.core.setting import Group

from .renamed import renamed
from .terminal import echo

_EXAMPLES: dict[Group, tuple[str, ...]] = {
    "Budgets": ("--flops 5M", "--params 500k"),
    "Data": ("--data ./photos", "--image-size 96"),
    "Search": ("--method da2s", "--search-epochs 20"),
    "Training": ("--effort quick", "--seed 1"),
    "Comparison": ("--baselines mobilenet_v2", "--random 5"),
    "Measurement": ("--image-size 224", "--threads 4"),
    "Output": ("--out RUN", "--resume"),
}
"""Examples in the headings of groups, if the command has the option."""

_ALL = "mobilenas.help_all"


class Option(click.Option):
    """An option with its group."""

    def __init__(
        self,
        *args: Any,
        group: Group = "Output",
        rare: bool = False,
        default_text: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.group, self.rare = group, rare
        if default_text:
            self.help = f"{self.help}  [default: {default_text}]"


class Command(click.Command):
    """Lists options in groups; has `--help-all` if some are rare."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        if any(getattr(param, "rare", False) for param in self.params):
            self.params.append(
                Option(
                    ["--help-all"],
                    is_flag=True,
                    expose_value=False,
                    is_eager=True,
                    help="Show all options, including rare ones, and exit.",
                    callback=_show_all,
                )
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments, including deprecated names."""
        return super().parse_args(ctx, renamed(args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        options.sort(key=lambda param: getattr(param, "rare", False))
        listed = [o for o in options if _ALL in ctx.meta or not getattr(o, "rare", False)]
        flags = {flag for param in listed for flag in param.opts}
        groups: dict[Group, list[tuple[str, str]]] = {group: [] for group in get_args(Group)}
        for param in listed:
            if record := param.get_help_record(ctx):
                groups[getattr(param, "group", "Output")].append(record)
        several = sum(map(bool, groups.values())) > 1
        for group, records in groups.items():
            examples = " ".join(text for text in _EXAMPLES[group] if text.split()[0] in flags)
            heading = group + f" (such as {examples})" * bool(examples) if several else "Options"
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _show_all(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        echo(ctx.get_help())
        ctx.exit()
