"""Expands WebDataset shard patterns: `wds:train-{0000..0099}.tar::val-{00..09}.tar`."""

import math
import re
from collections import Counter
from itertools import product
from pathlib import Path

from mobilenas.core.errors import DataError
from mobilenas.core.settings import counted

WDS = "wds:"
"""Prefix of sources that are shards."""
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_SHARDS = 1_000_000


def shard_paths(source: str) -> list[Path]:
    """Return the shards that a source names, sorted; DataError if one does not exist."""
    patterns = source.removeprefix(WDS).split("::")
    paths = sorted(Path(name) for pattern in patterns for name in expand_braces(pattern))
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise DataError(f"{source!r} names {twice[0]} twice")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f", nor {counted(len(missing) - 1, 'other shard')}" if len(missing) > 1 else ""
        raise DataError(f"shard {missing[0]} does not exist{more}")
    return paths


def expand_braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{00..10}` as a shell does; braces are not nested."""
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"{pattern!r} is not a path: shards are read from a file system only")
    pieces = _GROUP.split(pattern)
    if not pattern or any(brace in text for text in pieces[::2] for brace in "{}"):
        raise DataError(
            f"{pattern!r} is not a pattern of shards such as train-{{000..099}}.tar; braces are "
            "not nested, and several patterns are joined by ::"
        )
    options = [_options(text) if place % 2 else [text] for place, text in enumerate(pieces)]
    if math.prod(map(len, options)) > _MAX_SHARDS:
        raise DataError(f"{pattern!r} names more than {_MAX_SHARDS:,} shards")
    return ["".join(chosen) for chosen in product(*options)]


def _options(text: str) -> list[str]:
    ends = _RANGE.fullmatch(text)
    if ends is None:
        return text.split(",")
    first, last = sorted(map(int, ends.groups()))
    padded = any(end.startswith("0") for end in ends.groups())
    width = max(map(len, ends.groups())) if padded else 1
    return [f"{number:0{width}}" for number in range(first, min(last, first + _MAX_SHARDS) + 1)]
