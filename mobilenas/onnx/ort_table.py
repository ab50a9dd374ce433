"""Sorts the one table of an ORT file that onnxruntime writes in hash order.

It says which inputs and outputs determine the types of each operator's kernel. The order of its
entries differs between processes; sorted, the same model gives the same file. Fields are those of
onnxruntime's schema (`onnxruntime/core/flatbuffers/schema/ort.fbs`).
"""

import struct

import flatbuffers
from flatbuffers.table import Table

_RESOLVER = 10  # slot of InferenceSession.kernel_type_str_resolver
_FIRST, _SECOND = 4, 6  # slots of a table's first two fields
Arguments = tuple[tuple[int, int], ...]
"""Type and index of each argument."""
Kernel = tuple[bytes, Arguments]
"""A kernel's type name, and the arguments that have it."""
Entry = tuple[bytes, tuple[Kernel, ...]]
"""An operator and the types of its kernels."""


def sorted_table(content: bytes) -> bytes:
    """Return an ORT file with the table sorted and moved to the end; the old one is zeroed."""
    buffer = bytearray(content)
    root = Table(buffer, struct.unpack_from("<I", buffer)[0])
    slot = root.Offset(_RESOLVER)
    if not slot:
        return content
    reader = _Reader(buffer)
    entries = reader.entries(Table(buffer, root.Indirect(root.Pos + slot)))
    reader.clear(keep=_vtable(root))
    buffer.extend(bytes(-len(buffer) % 8))
    place = len(buffer)
    written = _written(entries)
    buffer.extend(written)
    target = place + struct.unpack_from("<I", written)[0]
    struct.pack_into("<I", buffer, root.Pos + slot, target - (root.Pos + slot))
    return bytes(buffer)


def _vtable(table: Table) -> int:
    return int(table.Pos - struct.unpack_from("<i", table.Bytes, table.Pos)[0])


class _Reader:
    """Reads the table and records which bytes it occupies."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._places: list[tuple[int, int]] = []
        self._texts: list[tuple[int, int]] = []
        self._vtables: set[int] = set()

    def entries(self, resolver: Table) -> list[Entry]:
        """Return all operators, sorted."""
        self._note(resolver)
        return sorted(
            (self._text(entry, _FIRST), tuple(sorted(map(self._kernel, self._tables(entry)))))
            for entry in self._tables(resolver, _FIRST)
        )

    def _kernel(self, kernel: Table) -> Kernel:
        return self._text(kernel, _FIRST), tuple(map(self._argument, self._tables(kernel)))

    def _argument(self, table: Table) -> tuple[int, int]:
        kind, index = table.Offset(_FIRST), table.Offset(_SECOND)
        return (
            self._buffer[table.Pos + kind] if kind else 0,
            struct.unpack_from("<I", self._buffer, table.Pos + index)[0] if index else 0,
        )

    def _tables(self, table: Table, slot: int = _SECOND) -> list[Table]:
        offset = table.Offset(slot)
        if not offset:
            return []
        start, count = table.Vector(offset), table.VectorLen(offset)
        self._places.append((start - 4, start + 4 * count))
        found = [Table(self._buffer, table.Indirect(start + 4 * i)) for i in range(count)]
        for inner in found:
            self._note(inner)
        return found

    def _text(self, table: Table, slot: int) -> bytes:
        start = table.Indirect(table.Pos + table.Offset(slot))
        length = struct.unpack_from("<I", self._buffer, start)[0]
        self._texts.append((start, start + 4 + length))
        return bytes(self._buffer[start + 4 : start + 4 + length])

    def _note(self, table: Table) -> None:
        vtable = _vtable(table)
        size = struct.unpack_from("<H", self._buffer, vtable + 2)[0]
        self._places.append((table.Pos, table.Pos + size))
        self._vtables.add(vtable)

    def clear(self, keep: int) -> None:
        """Zero the bytes that were read, except those shared with the rest of the file."""
        first, last = min(start for start, _ in self._places), max(end for _, end in self._places)
        for vtable in self._vtables:
            if first <= vtable < last and vtable != keep:
                size = struct.unpack_from("<H", self._buffer, vtable)[0]
                self._places.append((vtable, vtable + size))
        # a string after the table's parts belongs to the graph and is shared
        own = [(start, end) for start, end in self._texts if start < last]
        for start, end in self._places + own:
            self._buffer[start:end] = bytes(end - start)


def _written(entries: list[Entry]) -> bytes:
    builder = flatbuffers.Builder(0)
    tables = []
    for name, kernels in entries:
        inner = []
        for kind, arguments in kernels:
            pairs = [_pair(builder, *argument) for argument in arguments]
            inner.append(_named(builder, kind, pairs))
        tables.append(_named(builder, name, inner))
    vector = _vector(builder, tables)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _named(builder: flatbuffers.Builder, name: bytes, tables: list[int]) -> int:
    text, vector = builder.CreateString(name), _vector(builder, tables)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    return int(builder.EndObject())


def _pair(builder: flatbuffers.Builder, kind: int, index: int) -> int:
    builder.StartObject(2)
    builder.PrependInt8Slot(0, kind, 0)
    builder.PrependUint32Slot(1, index, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())
