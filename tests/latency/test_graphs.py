import os
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mobilenas.core.errors import MobileNASError
from mobilenas.latency.graphs import arch_model, unit_model
from mobilenas.latency.units import Unit, arch_units, space_units
from mobilenas.onnx import export
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.session import session as open_session
from mobilenas.onnx.settings import PRECISIONS
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.mobile.settings import COMPARED
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.networks import build

SIDE = 32
TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


@pytest.fixture(scope="module")
def archs(tiny_space: MobileSpace) -> dict[str, MobileArch]:
    drawn = tiny_space.arch(tiny_space.random(random.Random(5)))
    nets = {
        name: MOBILENETS[name](0.25, SIDE, 7) for name in ("mobilenet_v2", "mobilenet_v3_small")
    }
    return nets | {"drawn": drawn}


@pytest.fixture(scope="module")
def exported(
    archs: dict[str, MobileArch], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], bytes]:
    """What a module of the arch is exported as, in either precision."""
    folder, noise = tmp_path_factory.mktemp("export"), np.random.default_rng(0)

    def file(name: str, precision: str) -> bytes:
        arch, paths = archs[name], {p: folder / f"{name}.{p}.onnx" for p in PRECISIONS}
        if not paths["fp32"].exists():
            torch.manual_seed(0)
            sizes = {"image_size": arch.image_size, "channels": 3}
            export.export_onnx(build(arch), paths["fp32"], metadata={}, **sizes)
        if precision == "int8":
            shape = (1, 3, arch.image_size, arch.image_size)
            samples = [noise.standard_normal(shape, np.float32) for _ in range(2)]
            quantize_static_qdq(
                paths["fp32"], paths["int8"], samples, per_channel=True, equalize=True
            )
        return paths[precision].read_bytes()

    return file


def session(content: bytes, **settings: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes) -> Any:
    runner = session(content)
    feeds = {item.name: np.ones(item.shape, TYPES[item.type]) for item in runner.get_inputs()}
    (output,) = runner.run(None, feeds)
    return output


def operations(content: bytes, folder: Path, level: str = "ORT_ENABLE_ALL") -> Counter[Any]:
    """What onnxruntime runs: each operator with its attributes and the shapes of its weights."""
    path = folder / "optimized.onnx"
    session(
        content,
        optimized_model_filepath=str(path),
        graph_optimization_level=getattr(onnxruntime.GraphOptimizationLevel, level),
    )
    model = onnx.load(str(path))
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    return Counter(
        (
            f"{node.domain}.{node.op_type}",
            tuple(shapes[name] for name in node.input if len(shapes.get(name, ())) > 1),
            tuple(
                sorted(
                    f"{item.name} {np.round(onnx.helper.get_attribute_value(item), 4)}"
                    for item in node.attribute
                    if item.name in ("strides", "pads", "group", "activation_params")
                )
            ),
        )
        for node in model.graph.node
    )


def kinds(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "drawn"])
def test_a_network_runs_as_the_exported_module_does(
    name: str,
    precision: str,
    archs: dict[str, MobileArch],
    exported: Callable[[str, str], bytes],
    tmp_path: Path,
) -> None:
    written = arch_model(archs[name], precision)
    assert operations(written, tmp_path) == operations(exported(name, precision), tmp_path)
    onnx.checker.check_model(onnx.load_from_string(written), full_check=True)
    logits = run(written)
    assert logits.dtype == np.float32
    assert logits.shape == (1, archs[name].classes)
    assert np.isfinite(logits).all()
    assert logits.std() > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_units_end_to_end_have_the_nodes_of_the_network(
    precision: str, archs: dict[str, MobileArch]
) -> None:
    for arch in archs.values():
        units = [kinds(unit_model(unit, precision)) for unit in arch_units(arch)]
        counts = sum(units, Counter())
        # each boundary inside the image part is turned to channels last and back
        assert counts.pop("Transpose", 0) == (
            2 * (len(arch.blocks) + 1) if precision == "int8" else 0
        )
        assert counts == kinds(arch_model(arch, precision))


def test_8_bit_units_run_what_the_network_runs(
    archs: dict[str, MobileArch], tmp_path: Path
) -> None:
    for arch in archs.values():
        units = [operations(unit_model(unit, "int8"), tmp_path) for unit in arch_units(arch)]
        assert sum(units, Counter()) == operations(arch_model(arch, "int8"), tmp_path)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_units_fit_together(precision: str, archs: dict[str, MobileArch]) -> None:
    ends = []
    for unit in arch_units(archs["mobilenet_v3_small"]):
        runner = session(unit_model(unit, precision))
        (x,), (y,) = runner.get_inputs(), runner.get_outputs()
        assert (x.name, y.name) == ("input", "output")
        ends.append(((x.type, x.shape), (y.type, y.shape)))
    for (_, before), (after, _) in pairwise(ends):
        assert before == after
    assert ends[0][0] == ("tensor(float)", [1, 3, SIDE, SIDE])
    assert ends[-1][1] == ("tensor(float)", [1, 7])
    small = "tensor(uint8)" if precision == "int8" else "tensor(float)"
    assert {before[0] for before, _ in ends[1:]} == {small}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_unit_of_a_space_runs(precision: str, tiny_space: MobileSpace) -> None:
    units = space_units(tiny_space)
    for unit in units:
        assert np.isfinite(run(unit_model(unit, precision))).all(), unit.key
    assert len(units) > 100


@pytest.mark.parametrize(
    ("key", "operators"),
    [
        ("block 8px 8>8>8 k3 s1 relu", {"Conv": 2, "Relu": 1, "Add": 1}),
        ("block 8px 8>8>8 k3 s2 relu", {"Conv": 2, "Relu": 1}),
        ("block 8px 8>24>16 k3 s1 relu6", {"Conv": 3, "Clip": 2}),
        (
            "block 8px 8>24>16 k5 s1 se8 hard_swish",
            {"Conv": 5, "HardSwish": 2, "ReduceMean": 1, "Relu": 1, "HardSigmoid": 1, "Mul": 1},
        ),
        ("features 8px 8>24 relu", {"Conv": 1, "Relu": 1, "ReduceMean": 1}),
        ("linear 8>24 relu", {"Gemm": 1, "Relu": 1}),
    ],
)
def test_a_unit_has_its_layers(key: str, operators: dict[str, int]) -> None:
    assert kinds(unit_model(Unit.parse(key))) == operators


def test_graphs_are_stable(tiny_space: MobileSpace) -> None:
    unit = space_units(tiny_space)[3]
    assert unit_model(unit, "int8") == unit_model(unit, "int8")


def test_a_wrong_precision_names_the_legal_ones(tiny_space: MobileSpace) -> None:
    with pytest.raises(MobileNASError, match="precision is 'fp16'; it must be one of fp32, int8"):
        unit_model(space_units(tiny_space)[0], "fp16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", COMPARED)
def test_whole_mobilenets_load(name: str, precision: str, tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    path.write_bytes(arch_model(MOBILENETS[name](0.35, 32, 10, "early"), precision))
    (entry,) = session(path).get_inputs()
    assert entry.shape == [1, 3, 32, 32]


def test_a_file_whose_name_is_not_utf8_is_run(tmp_path: Path, micro_space: MobileSpace) -> None:
    path = tmp_path / os.fsdecode(b"\xff.onnx")
    path.write_bytes(unit_model(space_units(micro_space)[0], "fp32"))
    assert open_session(path).get_inputs()
