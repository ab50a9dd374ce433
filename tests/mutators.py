"""Ways to damage a file: its bytes, its JSON, its zip archive, what a checkpoint holds."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

Mutation = tuple[bytes, str]
"""The damaged content, and what was done."""

_MARK = "MARK-6b1f"
_RAW = {
    "deep lists": "[" * 3000 + "]" * 3000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "65 levels": "[" * 65 + "]" * 65,
    "400 digits": "9" * 400,
    "9000 digits": "-" + "9" * 9000,
    "NaN": "NaN",
    "infinity": "-Infinity",
    "1e999": "1e999",
    "double keys": '{"a": 1, "a": 2}',
    "half surrogate": '"\\ud800"',
    "NUL": '"a\\u0000b"',
}
"""What json.dumps does not write."""
_TEXTS = (
    *(
        "",
        "\x1b]0;owned\x07\x1b[2J",
        "[red]x[/red]",
        "../../outside/x",
        "/outside/x",
        ".",
        "x" * 9999,
    ),
    *(
        "19.5",
        "NaN",
        "\udce9",
        "\u202e",
        "a/b",
        "compare/../../outside/model.onnx",
        "os:getcwd",
        "\n",
    ),
)
_VALUES = (
    *(None, True, False, 0, 1, -1, 2, 64, 10**9, 2**53, 2**62, -(2**62), 0.0, -0.0, 0.5, -1.5),
    *(1e-300, 1e15, 1e99, 1e308, 100.0001, [], {}, [[]], [None], {"": None}, {"a": 1}, [1, 2, 3]),
    *_TEXTS,
)


def damage_json(content: bytes, random: Random, others: list[bytes]) -> Mutation:
    """Change one place of a JSON document, or of one line of a log."""
    lines = content.decode(errors="surrogateescape").splitlines()
    log = len(lines) > 1 and lines[0].startswith("{") and lines[0].endswith("}")
    number = random.randrange(len(lines)) if log else None
    data = json.loads(lines[number] if number is not None else content)
    places = list(_places(data))
    parent, key = random.choice(places) if places else (None, None)
    if parent is None:
        return b"null", "nothing is left"
    done, text = _change(data, parent, key, random, others)
    if number is not None:
        lines[number] = text
        text = "\n".join(lines) + "\n"
        done = f"line {number + 1}: {done}"
    return text.encode(errors="surrogatepass"), done


def _places(data: Any) -> list[tuple[Any, Any]]:
    found = []
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, item in items:
        found.append((data, key))
        if isinstance(item, dict | list):
            found += _places(item)
    return found


def _change(
    data: Any, parent: Any, key: Any, random: Random, others: list[bytes]
) -> tuple[str, str]:
    kind = random.randrange(9)
    old = parent[key]
    if kind == 0:
        del parent[key]
        return f"without {key!r}", json.dumps(data)
    if kind == 1 and isinstance(parent, dict):
        new = random.choice(_TEXTS)
        parent[new] = parent.pop(key)
        return f"{key!r} is named {new[:20]!r}", json.dumps(data)
    if kind == 2 and isinstance(parent, dict):
        text = json.dumps(data)
        name = json.dumps(key) + ":"
        return f"{key!r} twice", text.replace(name, f"{name} 1, {name}", 1)
    if kind == 3 and isinstance(old, list) and old:
        parent[key] = random.choice(([], old[:-1], old * 2, [old[0]] * 50, old[::-1]))
        return f"another list for {key!r}", json.dumps(data)
    if kind == 4:
        name, raw = random.choice(list(_RAW.items()))
        parent[key] = _MARK
        return f"{name} for {key!r}", json.dumps(data).replace(f'"{_MARK}"', raw)
    if kind == 5 and type(old) in (int, float):
        parent[key] = random.choice((-old, old + 1, old * 1000, old * 1e9, float(old), str(old)))
        return f"{parent[key]!r} for {key!r}", json.dumps(data)
    if kind == 6 and others:
        parent[key] = _whole(random.choice(others))
        return f"another file for {key!r}", json.dumps(data)
    parent[key] = random.choice(_VALUES)
    return f"{str(parent[key])[:30]!r} for {key!r}", json.dumps(data)


def _whole(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def damage_bytes(content: bytes, random: Random, others: list[bytes]) -> Mutation:
    """Flip, cut, insert, repeat, or replace the whole file."""
    place = random.randrange(len(content) + 1)
    end = min(len(content), place + random.choice((1, 1, 4, 64, 4096)))
    noise = random.randbytes(end - place)
    ways: dict[str, bytes] = {
        "cut": content[:place],
        "other bytes": content[:place] + noise + content[end:],
        "one bit": content[:place] + _flipped(content[place:end], random) + content[end:],
        "zeros": content[:place] + bytes(end - place) + content[end:],
        "left out": content[:place] + content[end:],
        "inserted": content[:place] + random.randbytes(8) + content[place:],
        "twice": content + content,
        "appended": content + random.randbytes(16),
        "UTF-16": content.decode(errors="replace").encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + content,
        "empty": b"",
        "another file": random.choice(others) if others else b"{}",
    }
    rare = {"twice", "appended", "UTF-16", "byte order mark", "empty", "another file"}
    common = [name for name in ways if name not in rare]
    name = random.choice(common if random.random() < 0.8 else sorted(rare))
    return ways[name], f"{name} at {place}"


def _flipped(part: bytes, random: Random) -> bytes:
    if not part:
        return part
    return bytes([part[0] ^ (1 << random.randrange(8))]) + part[1:]


class _Call:
    """Would run code when it is unpickled by a reader that trusts its input."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.mkdir, (Path("ran-code"),)


def damage_checkpoint(content: bytes, random: Random, others: list[bytes]) -> Mutation:
    """Damage the archive, or what it holds."""
    if random.random() < 0.5:
        return _damage_state(content, random)
    members = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    target = random.choice(list(members))
    crafted = {
        "a call": pickle.dumps({"log": _Call()}, 2),
        "a list": pickle.dumps([1, 2, 3], 2),
        "deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
        "no stop": b"\x80\x02}",
        "memo": b"\x80\x02h\x07.",
        "huge text": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "noise": random.randbytes(64),
        "empty": b"",
    }
    way = random.randrange(6)
    if way == 0:
        name = random.choice(list(crafted))
        return _zipped(members | {pickled: crafted[name]}), f"pickle: {name}"
    if way == 1:
        members.pop(target)
        return _zipped(members), f"without {target}"
    if way == 2:
        return _zipped(members, zipfile.ZIP_DEFLATED), "compressed"
    if way == 3:
        whole = bytearray(_zipped(members))
        start = whole.rindex(b"PK\x01\x02")
        whole[start + 8] |= 1
        return bytes(whole), "encrypted"
    if way == 4:
        return _zipped({"a.txt": b"hello"}), "another archive"
    return damage_bytes(content, random, others)


def _zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _damage_state(content: bytes, random: Random) -> Mutation:
    state = torch.load(io.BytesIO(content), weights_only=True)
    parent, key = random.choice(_places(state))
    old = parent[key]
    if random.random() < 0.2 and isinstance(parent, dict):
        del parent[key]
        done = f"without {key!r}"
    else:
        parent[key] = random.choice(_values_for(old, random))
        done = f"{str(parent[key])[:30]!r} for {key!r}"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue(), done


def _values_for(old: Any, random: Random) -> list[Any]:
    values = [random.choice(_VALUES), random.choice(_VALUES)]
    if isinstance(old, torch.Tensor):
        other = torch.zeros(3, 2)
        values += [other, other.long(), old.double().to(torch.complex64), old.reshape(-1)[:0]]
        values += [
            other.to_sparse(),
            torch.empty(2**40, device="meta"),
            old.double() * float("nan"),
        ]
    return values


def damage_tensors(content: bytes, random: Random, others: list[bytes]) -> Mutation:
    """Damage the header of a safetensors file, or its numbers."""
    size = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + size], content[8 + size :]
    way = random.randrange(4)
    if way == 0:
        changed, done = damage_json(header, random, others)
        return len(changed).to_bytes(8, "little") + changed + rest, f"header: {done}"
    if way == 1:
        length = random.choice((0, 1, size - 1, size + 1, 2**31, 2**63 - 1, 2**64 - 1))
        return length.to_bytes(8, "little") + header + rest, f"length {length}"
    if way == 2:
        place = 4 * random.randrange(max(1, len(rest) // 4))
        number = random.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\xff"))
        return content[: 8 + size] + rest[:place] + number + rest[place + 4 :], f"float at {place}"
    return damage_bytes(content, random, others)


def damage_either(
    first: Callable[[bytes, Random, list[bytes]], Mutation], share: float = 0.75
) -> Callable[[bytes, Random, list[bytes]], Mutation]:
    """Return what damages the form in most cases, and the bytes in the others."""

    def damage(content: bytes, random: Random, others: list[bytes]) -> Mutation:
        chosen = first if random.random() < share else damage_bytes
        return chosen(content, random, others)

    return damage
