"""Renders templates of templates/ to HTML; all values are escaped."""

from functools import cache
from pathlib import PurePath

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mobilenas.core.settings import (
    COUNTING_RULE,
    UNSTEADY,
    counted,
    format_cell,
    format_count,
    format_latency,
)


class Missing(Markup):
    """A note on what must be done before a section can be shown."""


def missing(what: str, command: str) -> Missing:
    """Return a note on which command makes the content of a section."""
    return Missing(render("missing.html", what=what, command=command))


def render(template: str, **values: object) -> Markup:
    """Render a template with these values; values that are Markup are not escaped.

    jinja2.UndefinedError if the template uses a missing value.
    """
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mobilenas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"counting_rule": COUNTING_RULE, "unsteady": UNSTEADY}
    environment.filters |= {
        "cell": format_cell,
        "count": format_count,
        "counted": counted,
        "file_name": _file_name,
        "latency": format_latency,
        "number": number,
    }
    return environment


def number(value: float | None, spec: str, std: float | None = None) -> str:
    """Format a number by `spec`, with its standard deviation if given; None is a dash."""
    if value is None:
        return "-"
    return f"{value:{spec}}" if std is None else f"{value:{spec}} ± {std:{spec}}"


def _file_name(path: str) -> str:
    return PurePath(path).name
