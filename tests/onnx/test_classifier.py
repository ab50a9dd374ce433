"""Files from outside: whatever is wrong with them is one line."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

import mobilenas.onnx.predict as predicting
from mobilenas.core.errors import DataError, FileError
from mobilenas.onnx.classifier import Classifier
from mobilenas.onnx.predict import predict
from mobilenas.onnx.session import time_limit

SIDE, CLASSES = 8, 3
PROPS = {
    "labels": json.dumps(["a", "b", "c"]),
    "mean": "[0.5, 0.5, 0.5]",
    "std": "[0.5, 0.5, 0.5]",
    "image_size": str(SIDE),
}
IMAGE = np.ones((1, 3, SIDE, SIDE), np.float32)


def network(
    *,
    batch: int | str = 1,
    inputs: int = 1,
    outputs: int = 1,
    kind: int = TensorProto.FLOAT,
    result: int = TensorProto.FLOAT,
    middle: list[NodeProto] | None = None,
) -> ModelProto:
    """Means of the three channels; `middle` makes `m` of the image `x0`."""
    nodes = middle or [helper.make_node("Identity", ["x0"], ["m"])]
    nodes = [*nodes, helper.make_node("ReduceMean", ["m"], ["mean"], axes=[2, 3], keepdims=0)]
    nodes += [helper.make_node("Cast", ["mean"], [f"y{n}"], to=result) for n in range(outputs)]
    shape = (batch, 3, SIDE, SIDE)
    weights = {"true": np.array(True), "seventh": np.array([7], np.int64)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(f"x{n}", kind, shape) for n in range(inputs)],
        [helper.make_tensor_value_info(f"y{n}", result, (batch, CLASSES)) for n in range(outputs)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, PROPS)
    return model


def save(model: ModelProto | bytes, path: Path) -> Path:
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (10, 10), "blue").save(tmp_path / "blue.png")
    return tmp_path / "blue.png"


def test_a_file_in_order_gives_its_logits(tmp_path: Path, photo: Path) -> None:
    for batch in (1, "N"):
        path = save(network(batch=batch), tmp_path / "m.onnx")
        np.testing.assert_allclose(Classifier(path).logits(IMAGE), [1, 1, 1])
        assert predict(path, [photo])[0].labels[0][0] == "c"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"batch": 2}, r"the input is tensor\(float\) \[2, 3, 8, 8\]"),
        ({"inputs": 0}, "m.onnx"),
        ({"inputs": 2}, "has 2 inputs; it must have one"),
        ({"outputs": 2}, "has 2 outputs; it must have one"),
        ({"kind": TensorProto.STRING}, "m.onnx"),
        ({"result": TensorProto.STRING}, r"its output is tensor\(string\); it must be float"),
        ({"result": TensorProto.INT64}, r"its output is tensor\(int64\); it must be float"),
    ],
)
def test_what_is_no_classifier_is_refused(
    form: dict[str, Any], message: str, tmp_path: Path, photo: Path
) -> None:
    with pytest.raises(FileError, match=message) as caught:
        predict(save(network(**form), tmp_path / "m.onnx"), [photo])
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_node_that_fails_is_told(tmp_path: Path, photo: Path) -> None:
    middle = [
        helper.make_node("Gather", ["x0", "seventh"], ["one"], axis=1),  # of three
        helper.make_node("Add", ["one", "x0"], ["m"]),
    ]
    with pytest.raises(FileError, match=r"m\.onnx does not run in onnxruntime: .*Gather"):
        predict(save(network(batch="N", middle=middle), tmp_path / "m.onnx"), [photo])


@pytest.mark.parametrize("operator", ["Log", "Sqrt"])
def test_logits_that_are_no_numbers_are_no_class(operator: str, tmp_path: Path) -> None:
    middle = [helper.make_node(operator, ["x0"], ["m"])]
    path = save(network(middle=middle), tmp_path / "m.onnx")
    with pytest.raises(FileError, match=r"m\.onnx gives nan as a logit"):
        Classifier(path).logits(-IMAGE)


def test_an_endless_loop_is_stopped(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v", TensorProto.FLOAT, (1, 3, SIDE, SIDE)),
    ]
    again = [
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("Relu", ["v"], ["w"]),
    ]
    results = [
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, (1, 3, SIDE, SIDE)),
    ]
    body = helper.make_graph(again, "body", values, results)
    middle = [helper.make_node("Loop", ["", "true", "x0"], ["m"], body=body)]
    path = save(network(middle=middle), tmp_path / "m.onnx")
    monkeypatch.setattr(predicting, "LIMIT_S", 0.2)
    with pytest.raises(FileError, match=r"m\.onnx gave no answer for one image in 0\.2 s"):
        predict(path, [photo])


def test_a_time_limit_that_is_kept_stops_nothing() -> None:
    with time_limit(3600, lambda: pytest.fail("stopped")) as expired:
        pass
    assert not expired.is_set()


def mutated(whole: bytes, count: int) -> Iterator[bytes]:
    """The file with one or a few bytes changed, a piece cut out, or its end missing."""
    source = random.Random(0)
    for _ in range(count):
        data = bytearray(whole)
        kind = source.randrange(4)
        if kind < 2:
            for _ in range(1 if kind else source.randint(2, 8)):
                data[source.randrange(len(data))] = source.randrange(256)
        else:
            start = source.randrange(len(data))
            del data[start : (start + source.randint(1, 40)) if kind == 2 else None]
        yield bytes(data)


def test_any_byte_of_a_name_may_be_flipped(tmp_path: Path, photo: Path) -> None:
    whole = network().SerializeToString()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] = 0xFF  # never UTF-8
        try:
            predict(save(bytes(data), tmp_path / "m.onnx"), [photo])
        except FileError as error:
            assert "\n" not in str(error)


def test_mutations_end_in_an_answer_or_one_line(tmp_path: Path, photo: Path) -> None:
    answers = 0
    for data in mutated(network().SerializeToString(), 300):
        try:
            answers += len(predict(save(data, tmp_path / "m.onnx"), [photo]))
        except (DataError, FileError) as error:
            assert "\n" not in str(error)
    assert 0 < answers < 300
