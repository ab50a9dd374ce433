"""Error messages for values that msgspec rejects: full path, value, and what is legal there.

msgspec's own messages omit dict keys, the value, and the options of a Literal.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import lru_cache

import msgspec
from msgspec import inspect

_LONGEST_SHOWN = 80
_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+)\]|(?P<key>\[\.\.\.\])")
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`")
_NAMES: dict[type[inspect.Type], str] = {
    inspect.BoolType: "bool",
    inspect.DataclassType: "an object",
    inspect.DictType: "an object",
    inspect.FloatType: "a number",
    inspect.IntType: "int",
    inspect.ListType: "a list",
    inspect.NoneType: "null",
    inspect.StrType: "str",
    inspect.StructType: "an object",
    inspect.VarTupleType: "a list",
}

Step = str | int
"""A dict key, a field name, or a list index."""


def shown(value: object) -> str:
    """Return a value as errors quote it, truncated to 80 characters."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def between(low: float, high: float) -> str:
    """Return a range as errors state it, such as `between 0 and 1000000`."""
    return f"between {_in_full(low)} and {_in_full(high)}"


def _in_full(number: float) -> str:
    return f"{number:.0f}" if number == round(number) and abs(number) < 1e16 else f"{number:g}"


def explain(
    error: msgspec.ValidationError,
    kind: object,
    value: object,
    place: str,
    refused: Callable[[object], bool],
) -> str:
    """Return one line that says why `value`, found at `place`, is not a valid `kind`.

    `refused`: whether msgspec rejects a modified value, too.
    """
    message = _MESSAGE.fullmatch(str(error))
    assert message is not None  # it matches every text
    node = _type_info(kind)
    for step in _steps(message["path"] or "", value, refused):
        node, value, place = _type_at(node, step), _item(value, step), _below(place, step)
    if field := _FIELD.fullmatch(message["what"]):
        has = "lacks" if field["how"] == "missing required" else "has an unknown field"
        return f"{place or 'it'} {has} {field['name']!r}{_fields(node)}"
    if message["what"].startswith(("Expected", "Invalid enum value")):
        return f"{place or 'it'} {_legal(node, value)}"
    return f"{place}: {message['what']}" if place else message["what"]


def wrong_fields(kind: object, value: object, place: str) -> str:
    """Name the first dataclass in `value` with a missing or unknown field; empty if there is none.

    msgspec accepts both for dataclasses. Fields with `added` in their metadata may be missing.
    """
    return _wrong_fields(_type_info(kind), value, place)


@lru_cache(maxsize=256)
def _type_info(kind: object) -> inspect.Type:
    return inspect.type_info(kind)


def _wrong_fields(node: inspect.Type, value: object, place: str) -> str:
    inner: Iterable[tuple[Step, object]] = ()
    if isinstance(value, dict):
        inner = value.items()
        for arm in _arms(node):
            if isinstance(arm, inspect.DataclassType):
                names = [field.name for field in fields(arm.cls)]
                late = {field.name for field in fields(arm.cls) if field.metadata.get("added")}
                missing = [name for name in names if name not in value and name not in late]
                unknown = [name for name in value if name not in names]
                if missing or unknown:
                    has = f"lacks {missing[0]!r}" if missing else "has an unknown field "
                    has += "" if missing else repr(unknown[0])
                    return f"{place or 'it'} {has}; its fields are {', '.join(names)}"
    elif isinstance(value, list):
        inner = enumerate(value)
    found = (_wrong_fields(_type_at(node, s), i, _below(place, s)) for s, i in inner)
    return next(filter(None, found), "")


def failing_place(
    kind: object, value: object, place: str, fails: Callable[[object, type], bool]
) -> str:
    """Return the path of the innermost dataclass whose own check `fails`; empty if none does."""
    return _failing_place(_type_info(kind), value, place, fails)


def _failing_place(
    node: inspect.Type, value: object, place: str, fails: Callable[[object, type], bool]
) -> str:
    inner: Iterable[tuple[Step, object]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for step, item in inner:
        if found := _failing_place(_type_at(node, step), item, _below(place, step), fails):
            return found
    kinds = [arm.cls for arm in _arms(node) if isinstance(arm, inspect.DataclassType)]
    return place if any(fails(value, kind) for kind in kinds) else ""


def _below(place: str, step: Step) -> str:
    if isinstance(step, int):
        return f"{place}[{step}]"
    return f"{place}.{step}" if place else step


def _steps(path: str, value: object, refused: Callable[[object], bool]) -> list[Step]:
    steps: list[Step] = []
    for match in _STEP.finditer(path):
        if match["key"]:
            inner = value
            for step in steps:
                inner = _item(inner, step)
            assert isinstance(inner, dict)
            steps.append(next(key for key in inner if refused(_only(value, steps, key))))
        else:
            steps.append(match["field"] or int(match["index"]))
    return steps


def _only(value: object, steps: list[Step], key: str) -> object:
    """Return a copy of `value` in which the dict at `steps` has no keys but `key`."""
    if not steps:
        return {key: _item(value, key)}
    first, *rest = steps
    inner = _only(_item(value, first), rest, key)
    if isinstance(value, dict):
        return value | {first: inner}
    assert isinstance(value, list | tuple)
    return [inner if number == first else item for number, item in enumerate(value)]


def _item(value: object, step: Step) -> object:
    if isinstance(value, dict):
        return value[step]
    assert isinstance(value, list | tuple)
    return value[int(step)]


def _type_at(node: inspect.Type, step: Step) -> inspect.Type:
    for arm in _arms(node):
        match arm:
            case inspect.StructType(fields=known) | inspect.DataclassType(fields=known):
                types = {field.encode_name: field.type for field in known}
                return types.get(str(step), inspect.AnyType())
            case inspect.DictType(value_type=inner):
                return inner
            case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
                return inner
            case inspect.TupleType(item_types=items):
                return items[int(step)] if int(step) < len(items) else inspect.AnyType()
    return inspect.AnyType()


def _arms(node: inspect.Type) -> tuple[inspect.Type, ...]:
    return node.types if isinstance(node, inspect.UnionType) else (node,)


def _fields(node: inspect.Type) -> str:
    for arm in _arms(node):
        match arm:
            case (
                inspect.DataclassType(fields=known)
                | inspect.StructType(fields=known, forbid_unknown_fields=True)
            ):
                return f"; its fields are {', '.join(field.encode_name for field in known)}"
    return ""  # a Part, which names only some of the file's fields


def _legal(node: inspect.Type, value: object) -> str:
    legal = []
    for arm in _arms(node):
        match arm:
            case inspect.LiteralType(values=values):
                legal.append(f"one of {', '.join(map(str, values))}")
            case inspect.IntType(ge=low, le=high) | inspect.FloatType(ge=low, le=high):
                bounds = "" if low is None or high is None else f" {between(low, high)}"
                legal.append(_NAMES[type(arm)] + bounds)
            case inspect.StrType(pattern=str(pattern)):
                legal.append(f"one of {pattern.strip('^()$').replace('|', ', ')}")
            case inspect.TupleType(item_types=items):
                legal.append(f"a list of {len(items)}")
            case (
                inspect.ListType(max_length=int(high), min_length=low)
                | inspect.VarTupleType(max_length=int(high), min_length=low)
            ) if isinstance(value, list | tuple):
                return f"has {len(value)} items; there must be between {low or 0} and {high}"
            case inspect.DictType(max_length=int(high), min_length=low) if isinstance(value, dict):
                return f"has {len(value)} items; there must be between {low or 0} and {high}"
            case _:
                legal.append(_NAMES.get(type(arm), "a path"))
    return f"is {shown(value)}; it must be {' or '.join(dict.fromkeys(legal))}"
