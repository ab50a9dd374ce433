"""The groups of a model as an SVG file."""

from html import escape

from mobilenas.channel_graph.groups import Graph, Group

_FREE, _FIXED = "#3d87cc", "#858d99"
_FONT, _CHARACTER = 11, 6.7  # pixels; in a fixed-width font the width of text is known
_ROW, _BAR, _EDGE, _GAP = 20, 240, 12, 16
_SHOWN = 3


def layer_names(group: Group) -> list[str]:
    """Return the layers of a group, each once; for parameters outside of layers, their names."""
    return list(dict.fromkeys(member.module or member.kind for member in group.members))


def groups_drawing(graph: Graph, title: str) -> str:
    """Draw a bar per group, with its number of channels and its layers; fixed groups are grey.

    Hovering over a row shows all its layers.
    """
    groups = graph.groups
    largest = max(group.size for group in groups)
    bars = _EDGE + _CHARACTER * max(len(group.name) for group in groups) + _GAP
    layers = bars + _BAR + _CHARACTER * len(str(largest)) + 2 * _GAP
    labels = [_label(group) for group in groups]
    width = round(layers + _CHARACTER * max(map(len, labels)) + _EDGE)
    width = max(width, round(2 * _EDGE + _CHARACTER * len(title)))
    rows = [
        _row(group, label, 2 * _ROW + _ROW * number, bars, layers, _BAR / largest)
        for number, (group, label) in enumerate(zip(groups, labels, strict=True))
    ]
    height = _ROW * (len(groups) + 3)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-size="{_FONT}" font-family="monospace" '
        f'aria-label="Dependency groups of {_text(title)}">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        f'<text x="{_EDGE}" y="{_ROW}" font-weight="bold">{_text(title)}</text>\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )


def _row(group: Group, label: str, top: int, bars: float, layers: float, scale: float) -> str:
    base, length = top + _ROW - 6, max(1.0, group.size * scale)
    colour = _FREE if group.fixed is None else _FIXED
    return (
        f"<g><title>{_text(', '.join(layer_names(group)))}</title>"
        f'<text x="{_EDGE}" y="{base}">{_text(group.name)}</text>'
        f'<rect x="{bars:.1f}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 6}" '
        f'fill="{colour}"/>'
        f'<text x="{bars + length + 4:.1f}" y="{base}">{group.size}</text>'
        f'<text x="{layers:.1f}" y="{base}">{_text(label)}</text></g>'
    )


def _label(group: Group) -> str:
    names = layer_names(group)
    label = f"{len(names)}: {', '.join(names[:_SHOWN])}" + ", ..." * (len(names) > _SHOWN)
    if group.fixed is not None:
        return f"{label} (fixed: {group.fixed})"
    return label + f" (multiple of {group.divisor})" * (group.divisor > 1)


def _text(value: str) -> str:
    # control characters, which layer names may have, are not legal in XML
    return escape("".join(char if char.isprintable() else "?" for char in value))
