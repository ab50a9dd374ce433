"""Files of other tools: what fits, what does not and why, what is measured of them."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mobilenas.baselines.external import describe, open_external, size_bytes
from mobilenas.core.errors import FileError
from mobilenas.data import ImageData, batches
from mobilenas.latency.measured import Measured
from mobilenas.onnx.export import evaluate_onnx, export_onnx
from mobilenas.onnx.recount import count_onnx
from mobilenas.report.table import summarize

SIDE, CLASSES = 8, 5


def described(labels: Iterable[str]) -> dict[str, Any]:
    """Metadata of our own files: pixels from -1 to 1."""
    return {"labels": list(labels), "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": SIDE}


TIME = Measured.of([1_000_000])


def linear(
    path: Path,
    *,
    shape: tuple[Any, ...] = (1, 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    classes: int = CLASSES,
    inputs: int = 1,
    outputs: int = 1,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Cast, flatten and one matrix: as another tool may write it, under names of its own."""
    size = math.prod(side if isinstance(side, int) else SIDE for side in shape[1:])
    numbers = np.random.default_rng(0).normal(size=(size, classes))
    steps = [
        helper.make_node("Cast", ["x0"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["y0"]),
    ]
    steps += [helper.make_node("Relu", ["y0"], [f"y{n}"]) for n in range(1, outputs)]
    graph = helper.make_graph(
        steps,
        "another tool's",
        [helper.make_tensor_value_info(f"x{n}", kind, shape) for n in range(inputs)],
        [
            helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, (shape[0], classes))
            for n in range(outputs)
        ],
        [numpy_helper.from_array(numbers.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {k: json.dumps(v) for k, v in (metadata or {}).items()})
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("shape", [(1, 3, SIDE, SIDE), ("N", 3, SIDE, SIDE)])
def test_floats_are_normalized_as_the_run_s_images(
    tmp_path: Path, micro_images: ImageData, shape: tuple[Any, ...]
) -> None:
    path = linear(tmp_path / "x.onnx", shape=shape)
    entry = describe(open_external(path, micro_images), micro_images, TIME)
    weights = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    given = batches(micro_images.test, micro_images, batch_size=64, seed=None)
    ((images, labels),) = given
    right = (images.flatten(1).numpy() @ weights).argmax(1) == labels.numpy()
    assert entry.top1 == pytest.approx(100 * right.mean())
    counted = count_onnx(path)
    assert (entry.flops, entry.params) == (counted.flops, counted.params)
    assert entry.flops == entry.params == 3 * SIDE * SIDE * CLASSES
    assert entry.uncounted is None
    assert (entry.kind, entry.name, entry.onnx) == ("external", str(path), str(path))
    assert entry.seed is entry.train_seconds is entry.arch is None
    assert entry.size_bytes == path.stat().st_size


def test_bytes_are_given_as_they_are(tmp_path: Path, micro_images: ImageData) -> None:
    path = linear(tmp_path / "x.onnx", shape=(1, SIDE, SIDE, 3), kind=TensorProto.UINT8)
    entry = describe(open_external(path, micro_images), micro_images, TIME)
    weights = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    pixels = micro_images.test.images(torch.arange(len(micro_images.test)))
    flat = pixels.permute(0, 2, 3, 1).flatten(1).numpy().astype(np.float32)
    right = (flat @ weights).argmax(1) == micro_images.test.labels.numpy()
    assert entry.top1 == pytest.approx(100 * right.mean())


def test_a_file_of_ours_gets_what_its_own_run_measured(
    tmp_path: Path, micro_images: ImageData
) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, CLASSES))
    own = {name: json.dumps(value) for name, value in described(micro_images.classes).items()}
    path = tmp_path / "ours.onnx"
    export_onnx(module, path, image_size=SIDE, channels=3, metadata=own)
    entry = describe(open_external(path, micro_images), micro_images, TIME)
    assert entry.exported is False  # any tool may name labels and moments
    shown = [
        (2 * images * torch.tensor(micro_images.std).view(3, 1, 1) + shift, labels)
        for images, labels in batches(micro_images.test, micro_images, batch_size=64, seed=None)
        for shift in [2 * torch.tensor(micro_images.mean).view(3, 1, 1) - 1]
    ]
    assert entry.top1 == evaluate_onnx(path, shown)


@pytest.mark.parametrize("exported", [True, False])
def test_a_file_that_mobilenas_exported_is_known_by_its_metadata(
    tmp_path: Path, micro_images: ImageData, exported: bool
) -> None:
    metadata = described(micro_images.classes) | ({"counting_rule": "a"} if exported else {})
    external = open_external(linear(tmp_path / "x.onnx", metadata=metadata), micro_images)
    entry = describe(external, micro_images, TIME)
    assert entry.exported is exported
    (row,) = summarize([entry])
    assert row.exported is exported


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"shape": (1, 3, 9, 9)}, "its input is tensor(float) [1, 3, 9, 9]; for the images of"),
        ({"shape": (1, SIDE, SIDE, 3)}, "must be float [1, 3, 8, 8] or uint8 [1, 8, 8, 3]"),
        ({"shape": (4, 3, SIDE, SIDE)}, "its input is tensor(float) [4, 3, 8, 8]"),
        ({"shape": ("N", 3, "H", "W")}, "its input is tensor(float) ['N', 3, 'H', 'W']"),
        ({"kind": TensorProto.FLOAT16}, "its input is tensor(float16)"),
        ({"classes": 1000}, "its output is [1, 1000]; bands has 5 classes"),
        ({"outputs": 2}, "has 2 outputs; it must have one"),
        ({"inputs": 2}, "has 2 inputs; it must have one"),
        ({"metadata": described("abcxe")}, "labels are not the classes of bands: 'x' is none of"),
        ({"metadata": described("edcba")}, "labels are not the classes of bands: it has"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, micro_images: ImageData, form: dict[str, Any], message: str
) -> None:
    path = linear(tmp_path / "x.onnx", **form)
    with pytest.raises(FileError, match=re.escape(message)) as caught:
        open_external(path, micro_images)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [
        '{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}',
        '{"4": "e", "3": "d", "2": "c", "1": "b", "0": "a"}',
        '{"b": 1, "a": 0, "c": 2, "d": 3, "e": 4}',
        '{"b": 1, "a": "0"}',
        "a,b,c,d,e",
        '["Apple", "Bee", "Cat", "Dog", "Elk"]',
        "[" * 10_000,
        "5",
    ],
)
def test_labels_of_another_tool_say_nothing(
    tmp_path: Path, micro_images: ImageData, labels: str
) -> None:
    plain = describe(
        open_external(linear(tmp_path / "x.onnx"), micro_images), micro_images, TIME
    ).top1
    model = onnx.load(tmp_path / "x.onnx")
    helper.set_model_props(model, {"labels": labels, "mean": "0.5", "names": "{}"})
    onnx.save(model, str(tmp_path / "x.onnx"))
    found = describe(open_external(tmp_path / "x.onnx", micro_images), micro_images, TIME)
    assert found.top1 == plain


@pytest.mark.parametrize(
    "labels",
    [
        '["b", "a", "c", "d", "e"]',
        '{"0": "b", "1": "a", "2": "c", "3": "d", "4": "e"}',
        '{"1": "a", "0": "b", "2": "c", "3": "d", "4": "e"}',
        '{"a": 1, "b": 0, "c": 2, "d": 3, "e": 4}',
        "b, a, c, d, e",
        "b\r\na\r\nc\r\nd\r\ne\r\n",
    ],
)
def test_but_not_that_the_classes_come_in_another_order(
    tmp_path: Path, micro_images: ImageData, labels: str
) -> None:
    model = onnx.load(linear(tmp_path / "x.onnx"))
    helper.set_model_props(model, {"labels": labels})
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(
        FileError, match=r"x\.onnx: its labels are not the classes of bands: it has"
    ):
        open_external(tmp_path / "x.onnx", micro_images)


def test_a_damaged_file_of_ours_is_no_other_tool_s(tmp_path: Path, micro_images: ImageData) -> None:
    model = onnx.load(linear(tmp_path / "x.onnx", metadata=described("abcde")))
    own = {item.key: item.value for item in model.metadata_props}
    helper.set_model_props(model, own | {"counting_rule": "a rule", "std": "[0, 0, 0]"})
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(FileError, match="'std' in its metadata"):
        open_external(tmp_path / "x.onnx", micro_images)


def test_a_logit_that_is_no_number_is_an_error(tmp_path: Path, micro_images: ImageData) -> None:
    model = onnx.load(linear(tmp_path / "x.onnx"))
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[0, 3] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(FileError, match=r"x\.onnx gives nan as a logit"):
        open_external(tmp_path / "x.onnx", micro_images)


def test_what_is_no_model_is_named(tmp_path: Path, micro_images: ImageData) -> None:
    path = tmp_path / "x.onnx"
    path.write_text("no model", encoding="utf-8")
    with pytest.raises(FileError, match=r"x\.onnx is not an ONNX file"):
        open_external(path, micro_images)


def test_a_file_that_cannot_be_counted_has_no_counts(
    tmp_path: Path, micro_images: ImageData
) -> None:
    path = linear(tmp_path / "x.onnx")
    model = onnx.load(path)
    first = model.graph.node[0]
    first.op_type, first.input[:] = "DequantizeLinear", ["bytes", "one"]
    del first.attribute[:]
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    model.graph.initializer.extend([one])
    quantize = helper.make_node("QuantizeLinear", ["x0", "one"], ["bytes"])
    model.graph.node.insert(0, quantize)
    onnx.save(model, str(path))
    entry = describe(open_external(path, micro_images), micro_images, TIME)
    assert entry.flops is entry.params is None
    assert "QuantizeLinear" in entry.uncounted
    assert 0 <= entry.top1 <= 100


def test_weights_beside_a_file_count_to_its_size(tmp_path: Path, micro_images: ImageData) -> None:
    path = linear(tmp_path / "x.onnx")
    apart = tmp_path / "apart.onnx"
    onnx.save(
        onnx.load(path),
        str(apart),
        save_as_external_data=True,
        location="apart.data",
        size_threshold=0,
    )
    assert size_bytes(apart) == sum(
        (tmp_path / name).stat().st_size for name in ("apart.onnx", "apart.data")
    )
    found = [
        describe(open_external(file, micro_images), micro_images, TIME) for file in (path, apart)
    ]
    assert found[0].top1 == found[1].top1
