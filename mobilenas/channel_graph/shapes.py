"""Rules for operations that only move entries: views, slices, concatenation."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from mobilenas.channel_graph.extraction import Call, Extraction, Length, Value
from mobilenas.channel_graph.tracing import NodeValue
from mobilenas.channel_graph.variables import Layout, Unsupported, repeated


def size_of(_: Extraction, call: Call) -> NodeValue:
    """x.size(), x.size(1), x.shape: numbers that keep track of their layouts."""
    lengths = tuple(
        Length(value=size, terms=((Fraction(1), layout),)) if layout else size
        for size, layout in zip(call.x.shape, call.x.layouts, strict=True)
    )
    place = call.get(1, "dim") if call.name == "size" else None
    return lengths if place is None else lengths[place]


def arithmetic(call: Call) -> NodeValue:
    """Sums of lengths, and their products and quotients with plain numbers."""
    one, other = (*call.args, None)[:2]
    if call.name == "neg":
        one, other = -1, one
    if call.name in ("add", "sub"):
        sign = 1 if call.name == "add" else -1
        return Length(value=call.result, terms=(*_terms(one), *_scaled(_terms(other), sign)))
    if call.name in ("mul", "neg") and isinstance(one, int) != isinstance(other, int):
        length, factor = (other, one) if isinstance(one, int) else (one, other)
        return Length(value=call.result, terms=_scaled(_terms(length), factor))
    exact = isinstance(one, Length) and isinstance(other, int) and one.value % other == 0
    if call.name == "floordiv" and exact:
        return Length(value=call.result, terms=_scaled(_terms(one), Fraction(1, other)))
    raise Unsupported("it makes a number from a channel count that is not in proportion to it")


def _terms(number: NodeValue) -> tuple[tuple[Fraction, Layout], ...]:
    return number.terms if isinstance(number, Length) else ()


def _scaled(
    terms: tuple[tuple[Fraction, Layout], ...], factor: int | Fraction
) -> tuple[tuple[Fraction, Layout], ...]:
    return tuple((scale * factor, layout) for scale, layout in terms)


def _form(e: Extraction, length: Length) -> dict[int, Fraction]:
    form: dict[int, Fraction] = {}
    for scale, layout in length.terms:
        for variable, count in e.variables.form(layout).items():
            form[variable] = form.get(variable, Fraction(0)) + scale * count
    return form


def _share(e: Extraction, length: Length, layout: Layout) -> Fraction:
    """Return the share of a layout that a length is, which must be the same at all sizes."""
    whole, part = e.variables.form(layout), _form(e, length)
    share = Fraction(length.value, e.variables.entries(layout))
    if {variable: share * count for variable, count in whole.items()} != part:
        raise Unsupported("its sizes do not follow the channels")
    return share


def concatenate(e: Extraction, call: Call) -> Value:
    """torch.cat: concatenates layouts; other dimensions are tied."""
    values = call.get(0, "tensors")
    if not all(isinstance(value, Value) for value in values):
        raise Unsupported("its arguments are no tuple of tensors")
    place = call.get(1, "dim", 0) % len(call.shape)
    layouts: list[Layout] = []
    for axis in range(len(call.shape)):
        met = [value.layouts[axis] for value in values]
        if axis != place:
            layouts.append(
                meeting(e, [(value.shape[axis], value.layouts[axis]) for value in values])
            )
        elif any(met):
            layouts.append(tuple(run for value in values for run in e.channels(value, axis)))
        else:
            layouts.append(())
    return Value(shape=call.shape, layouts=tuple(layouts))


def meeting(e: Extraction, met: Sequence[tuple[int, Layout]]) -> Layout:
    """Return the layout of dimensions that are combined elementwise; size 1 is broadcast."""
    size = max(size for size, _ in met)
    layouts = [layout for own, layout in met if layout and own == size]
    constant = any(not layout and own == size > 1 for own, layout in met)
    for own, layout in met:
        if layout and own < size:
            e.variables.fix(layout, "broadcast over other channels")
        elif layout and constant:
            e.variables.fix(layout, "meets a constant of its size")
    if constant:
        return ()
    for layout in layouts[1:]:
        e.variables.tie(layouts[0], layout)
    if not layouts:
        return ()
    # the result is aligned only if all of them are
    resolved = [e.variables.resolve(layout) for layout in layouts]
    spoiled = [layout for layout in resolved if not all(run.aligned for run in layout)]
    return (spoiled or resolved)[0]


def transpose(_: Extraction, call: Call) -> Value:
    """permute, transpose."""
    rank = len(call.x.shape)
    order = list(range(rank))
    if call.name == "permute":
        order = list(_flat(call, 1, "dims"))
    else:
        one, other = call.get(1, "dim0"), call.get(2, "dim1")
        order[one], order[other] = order[other], order[one]
    return Value(shape=call.shape, layouts=tuple(call.x.layouts[place] for place in order))


def _flat(call: Call, place: int, name: str) -> Sequence[NodeValue]:
    """Return arguments that may be given one by one or as a tuple."""
    rest = call.args[place:] or (call.kwargs.get(name),)
    return rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest


def view(e: Extraction, call: Call) -> Value:
    """view, reshape, flatten, squeeze, unsqueeze."""
    x, shape = call.x, call.shape
    requested: Sequence[NodeValue] = [-1] * len(shape)
    if call.name in ("view", "reshape"):
        requested = _flat(call, 1, "shape")
        if len(requested) != len(shape) or not all(
            isinstance(item, int | Length) for item in requested
        ):
            raise Unsupported("its arguments are no sizes")
    layouts: list[Layout] = []
    for old, new in _blocks(x.shape, shape):
        joined = _join(x.shape[old], x.layouts[old])
        layouts += _part(e, call, joined, shape[new], requested[new])
    return Value(shape=shape, layouts=tuple(layouts))


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield the smallest runs of dimensions with equal numbers of entries in both shapes."""
    i = j = 0
    while i < len(old) or j < len(new):
        stop, end = min(i + 1, len(old)), min(j + 1, len(new))
        while (have := math.prod(old[i:stop])) != (want := math.prod(new[j:end])):
            if have < want:
                stop += 1
            else:
                end += 1
        yield slice(i, stop), slice(j, end)
        i, j = stop, end


def _join(sizes: Sequence[int], layouts: Sequence[Layout]) -> Layout:
    """Return the layout of several dimensions merged into one."""
    places = [place for place, layout in enumerate(layouts) if layout]
    if not places:
        return ()
    if len(places) > 1:
        raise Unsupported("it joins two dimensions of channels")
    outer, inner = math.prod(sizes[: places[0]]), math.prod(sizes[places[0] + 1 :])
    return repeated(layouts[places[0]], inner) * outer


def _part(
    e: Extraction, call: Call, layout: Layout, sizes: Sequence[int], requested: Sequence[NodeValue]
) -> list[Layout]:
    """Return the layouts of one dimension split into several."""
    result: list[Layout] = [()] * len(sizes)
    if not layout:
        if any(isinstance(item, Length) for item in requested):
            raise Unsupported("it gives a channel count to a dimension without channels")
        return result
    free = [place for place, item in enumerate(requested) if isinstance(item, Length) or item == -1]
    if not free:
        e.variables.fix(layout, call.written(math.prod(sizes)))
        return result
    if len(free) > 1:
        # without channel counts in the arguments, all but one must have size 1
        free = [place for place in free if sizes[place] > 1] or free[:1]
        if len(free) > 1:
            raise Unsupported("it makes two dimensions of channels from one")
    place = free[0]
    inner = e.variables.divided(layout, math.prod(sizes[place + 1 :]))
    result[place] = e.variables.pieces(inner, math.prod(sizes[:place]))[0]
    if isinstance(requested[place], Length):
        _agree(e, result[place], requested[place])
    return result


def _agree(e: Extraction, layout: Layout, requested: Length) -> None:
    """Ensure that a dimension has the requested size at all channel sizes."""
    if _form(e, requested) == e.variables.form(layout):
        return
    (scale, other), *more = requested.terms
    if scale == 1 and not more:
        e.variables.tie(layout, other)  # of another tensor, such as in y.view(x.size(0), x.size(1))
    else:
        raise Unsupported("its sizes do not follow the channels")


def chunk(e: Extraction, call: Call) -> tuple[Value, ...]:
    """chunk, and split into equal parts; sizes written in the code fix the channels."""
    x = call.x
    place = call.get(2, "dim", 0) % len(x.shape)
    layout, count = x.layouts[place], len(call.result)
    sizes = [piece.shape[place] for piece in call.result]
    pieces: list[Layout] = [()] * count
    if layout:
        requested = call.get(1, "chunks" if call.name == "chunk" else "split_size_or_sections")
        if call.name == "chunk" and count == requested and len(set(sizes)) == 1:
            pieces = e.variables.pieces(layout, count)
        elif isinstance(requested, Length) and len(set(sizes)) == 1:
            _share(e, requested, layout)
            pieces = e.variables.pieces(layout, count)
        elif isinstance(requested, Sequence) and any(
            isinstance(item, Length) for item in requested
        ):
            raise Unsupported("its parts are not equal; use chunk")
        else:
            e.variables.fix(layout, call.written(requested))
    return tuple(
        Value(
            shape=tuple(result.shape),
            layouts=(*x.layouts[:place], piece, *x.layouts[place + 1 :]),
        )
        for result, piece in zip(call.result, pieces, strict=True)
    )


def shuffle(e: Extraction, call: Call) -> Value:
    """nn.ChannelShuffle and F.channel_shuffle: channels [g, n] become [n, g]."""
    groups = getattr(call.module, "groups", None) or call.get(1, "groups")
    piece = e.variables.pieces(e.channels(call.x, 1), groups)[0]
    layouts = (call.x.layouts[0], repeated(piece, groups), *call.x.layouts[2:])
    return Value(shape=call.shape, layouts=layouts)


def item(e: Extraction, call: Call) -> NodeValue:
    """x[...]: slices of channels at shares of their number; any index elsewhere."""
    base, index = call.args
    if not isinstance(base, Value):
        return base[index]
    index = index if isinstance(index, tuple) else (index,)
    missing = len(base.shape) - sum(part is not None and part is not Ellipsis for part in index)
    if Ellipsis not in index:
        index = (*index, Ellipsis)
    layouts: list[Layout] = []
    place = 0
    for part in index:
        if part is None:
            layouts.append(())
        elif part is Ellipsis:
            layouts += base.layouts[place : place + missing]
            place += missing
        elif isinstance(part, int | slice):
            taken = _taken(e, call, base.layouts[place], part)
            layouts += [taken] if isinstance(part, slice) else []
            place += 1
        else:
            raise Unsupported("it picks entries by a tensor")
    return Value(shape=call.shape, layouts=tuple(layouts))


def _taken(e: Extraction, call: Call, layout: Layout, part: int | slice) -> Layout:
    """Return the layout of a slice of a dimension."""
    if not layout or part in (slice(None), slice(0, None)):
        return layout
    bounds = [part.start, part.stop] if isinstance(part, slice) else []
    known = [bound for bound in bounds if isinstance(bound, Length)]
    plain = all(bound in (None, 0) or bound in known for bound in bounds)
    if not known or not plain or (isinstance(part, slice) and part.step is not None):
        return e.fixed(layout, call.written(part))
    shares = [_share(e, bound, layout) for bound in known]
    count = math.lcm(*(share.denominator for share in shares))
    pieces = e.variables.pieces(layout, count)
    first, last = (
        int(_share(e, bound, layout) * count) if isinstance(bound, Length) else default
        for bound, default in zip(bounds, (0, count), strict=True)
    )
    return tuple(run for piece in pieces[first:last] for run in piece)
