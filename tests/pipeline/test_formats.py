"""The forms of a trained network: names, accuracy, checks, what is done again and what refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from mobilenas.core.errors import MobileNASError
from mobilenas.core.files import read_json, write_json
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.onnx.export import read_props
from mobilenas.onnx.input_layout import INPUT_KEY
from mobilenas.onnx.predict import predict
from mobilenas.onnx.record import EXPORT_FILE
from mobilenas.onnx.session import session
from mobilenas.onnx.settings import UINT8_NHWC
from mobilenas.pipeline.export_settings import FORMATS, FormatSettings, Int8Settings
from mobilenas.pipeline.formats import write_formats
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import Run, open_run
from mobilenas.pipeline.stages import WEIGHTS_FILE, export_stage, train_stage
from mobilenas.pipeline.starting import start

BLOCK = {"kernel": 3, "squeeze": 0, "activation": "hard_swish"}
ARCH = {
    "space": "mobile",
    "image_size": 8,
    "in_channels": 3,
    "classes": 10,
    "stem": {"channels": 8, "stride": 1, "activation": "hard_swish"},
    "blocks": [
        BLOCK | {"hidden": 8, "out": 16, "stride": 1, "squeeze": 8},
        BLOCK | {"hidden": 48, "out": 16, "stride": 2},
    ],
    "head": {"channels": 64, "hidden": 0, "activation": "hard_swish", "dropout": 0.0},
}
FILES = {
    "onnx": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "ort": "model.ort",
    "onnx-uint8": "model.uint8.onnx",
    "fp16-uint8": "model.fp16.uint8.onnx",
    "int8-uint8": "model.int8.uint8.onnx",
}
TARGETS = ("cpu", "nnapi")
TIMES = {"latency_ms", "latency_interval_ms", "latency_iqr_ms", "unsteady"}
FIELDS = {"path", "top1", "size_bytes", "checks", "targets"} | TIMES
MORE = {
    "ort": {"required_operators"},
    "fp16": {"fp16"},
    "fp16-uint8": {"fp16"},
    "int8": {"quantization"},
    "int8-uint8": {"quantization"},
}


def asked(**given: Any) -> FormatSettings:
    """Settings that let a target cut a network up: hard-swish is in it."""
    return FormatSettings(**({"max_parts": 100} | given))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its training, of an arch that nobody searched."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    request = Request(flops=300_000, effort="quick", epochs=8, threads=1)
    run = start(folder, request, command="mobilenas test", reporter=NullReporter())
    write_json(folder / "arch.json", {"arch": ARCH})
    train_stage(run)
    return folder


@pytest.fixture(scope="module")
def exported(trained: Path) -> Run:
    """The same with all files."""
    folder = Path(shutil.copytree(trained, trained.with_name("exported")))
    run = open_run(folder, NullReporter())
    for layout, names in (("float-nchw", FORMATS), ("uint8-nhwc", FORMATS[:3])):
        write_formats(run, asked(formats=names, targets=TARGETS, input=layout, max_drop=50))
    return run


@pytest.fixture
def fresh(trained: Path, tmp_path: Path) -> Run:
    return open_run(Path(shutil.copytree(trained, tmp_path / "fresh")), NullReporter())


def record_of(run: Run) -> dict[str, Any]:
    return read_json(run.folder / EXPORT_FILE)


def states(run: Run) -> dict[str, tuple[int, int]]:
    paths = sorted((run.folder / "export").iterdir())
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_every_file_is_named_measured_and_checked(exported: Run) -> None:
    record = record_of(exported)
    files = record["files"]
    assert {name: Path(entry["path"]).name for name, entry in files.items()} == FILES
    assert record["deployed"] == "onnx"
    for name, entry in files.items():
        ort = name.startswith("ort")
        assert set(entry) == FIELDS - ({"targets"} if ort else set()) | MORE.get(name, set())
        size = (exported.folder / entry["path"]).stat().st_size
        assert entry["size_bytes"] == entry["checks"]["size_bytes"] == size
        assert entry["checks"]["images"] == 64
        assert entry["checks"]["static"]
        # in 8 bits it is the processor's: where it has no instruction for them, sums saturate
        assert entry["checks"]["top1_agreement"] >= (60 if name.startswith("int8") else 98)
        assert entry["latency_ms"] > 0
        if ort:
            assert "ai.onnx" in (exported.folder / entry["required_operators"]).read_text()
        else:
            assert set(entry["targets"]) == set(TARGETS)
            assert entry["targets"]["nnapi"]["partitions"] >= 1
    assert files["onnx"]["checks"]["max_abs_difference"] == 0
    assert "QuantizeLinear" in files["int8-uint8"]["checks"]["operators"]
    assert files["fp16"]["size_bytes"] < files["onnx"]["size_bytes"]
    made = to_plain(Int8Settings().describe(exported.data, exported.settings.seed))
    assert files["int8"]["quantization"] == files["int8-uint8"]["quantization"] == made


@pytest.mark.parametrize("name", FORMATS[:3])
def test_pixels_in_give_the_accuracy_of_floats_in(exported: Run, name: str) -> None:
    files = record_of(exported)["files"]
    one_image = 100 / len(exported.data.test)
    assert files["onnx"]["top1"] > 20  # of ten classes
    assert files[f"{name}-uint8"]["top1"] == pytest.approx(files[name]["top1"], abs=2 * one_image)
    path = exported.folder / files[f"{name}-uint8"]["path"]
    (entry,) = session(path).get_inputs()
    assert (entry.type, entry.shape) == ("tensor(uint8)", [1, 8, 8, 3])
    assert UINT8_NHWC in read_props(path)[INPUT_KEY]


@pytest.mark.parametrize("name", ["onnx-uint8", "int8-uint8", "ort"])
def test_predict_normalizes_once(exported: Run, name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    images = []
    for number in range(8):
        pixels: NDArray[np.uint8] = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        images.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(images[-1])
    # in 8 bits the processor has its say: the file with floats in has the same
    floats = name.replace("-uint8", "").replace("ort", "onnx")
    expected = predict(exported.folder / "export" / FILES[floats], images, top=10)
    found = predict(exported.folder / "export" / FILES[name], images, top=10)
    for ours, theirs in zip(found, expected, strict=True):
        shares = dict(theirs.labels)
        assert dict(ours.labels) == pytest.approx(shares, abs=1e-3)


def test_what_is_there_is_not_written_again(exported: Run) -> None:
    before = states(exported)
    settings = asked(formats=FORMATS, targets=TARGETS, max_drop=50)
    assert to_plain(write_formats(exported, settings)) == record_of(exported)
    assert states(exported) == before


def test_another_target_or_a_lost_file_is_added_alone(exported: Run, tmp_path: Path) -> None:
    run = open_run(Path(shutil.copytree(exported.folder, tmp_path / "run")), NullReporter())
    before, old = states(run), record_of(run)
    write_formats(run, FormatSettings(targets=("coreml",)))
    files = record_of(run)["files"]
    assert set(files["onnx"]["targets"]) == {*TARGETS, "coreml"}
    assert files["onnx"]["latency_ms"] == old["files"]["onnx"]["latency_ms"]
    (run.folder / "export/model.fp16.onnx").unlink()
    write_formats(run, FormatSettings(formats=("fp16",), max_drop=5))
    after = states(run)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"model.fp16.onnx", "export.json"}


def spoil(run: Run) -> None:
    """Let one channel that nothing reads take the whole range of the stem's activations."""
    weights = load_file(run.folder / WEIGHTS_FILE)
    weights["stem.1.weight"][0] *= 1e4
    weights["blocks.0.depthwise.0.weight"][0] = 0
    weights["blocks.0.depthwise.1.running_mean"][0] = 0
    weights["blocks.0.project.0.weight"][:, 0] = 0
    save_file(weights, run.folder / WEIGHTS_FILE)


def test_a_file_that_loses_too_much_is_refused_and_the_others_kept(fresh: Run) -> None:
    spoil(fresh)
    with pytest.raises(MobileNASError) as raised:
        write_formats(fresh, FormatSettings(formats=("int8", "fp16")))
    files = record_of(fresh)["files"]
    assert set(files) == {"onnx", "fp16"}
    assert set(states(fresh)) == {
        "model.onnx",
        "model.fp16.onnx",
        "export.json",
        "misclassified.json",
    }
    message = str(raised.value)
    for part in ("int8 has ", f"model.onnx {files['onnx']['top1']:.2f} %", "may lose 1; try "):
        assert part in message
    for advice in ("--corrections equalize,bias", "--calibration-images 512", "--qat-epochs 10"):
        assert advice in message
    # what the advice says is enough
    allowed = float(message.partition("--max-drop ")[2])
    write_formats(fresh, FormatSettings(formats=("int8",), max_drop=allowed))
    assert set(record_of(fresh)["files"]) == {"onnx", "fp16", "int8"}
    # asked for again with less, it is refused and stays
    with pytest.raises(MobileNASError, match="int8 has"):
        write_formats(fresh, FormatSettings(formats=("int8",)))
    before = states(fresh)
    # and so it does when another that is asked for is no better
    with pytest.raises(MobileNASError, match="try --int8-weights per-channel, --corrections"):
        tensors = Int8Settings(weights="per-tensor")
        write_formats(fresh, FormatSettings(formats=("int8",), int8=tensors))
    assert states(fresh)["model.int8.onnx"] == before["model.int8.onnx"]


def test_a_set_smaller_than_the_calibration_is_taken_whole(
    fresh: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(fresh.data, train=fresh.data.train.subset(range(100)))
    monkeypatch.setattr(fresh, "data", few)
    files = to_plain(write_formats(fresh, asked(formats=("fp16", "int8"), max_drop=100)))["files"]
    assert files["int8"]["quantization"]["calibration_images"] == 100
    assert files["fp16"]["fp16"]["largest_activation"] > 0


def test_another_file_in_eight_bits_takes_the_place_of_the_first(
    exported: Run, tmp_path: Path
) -> None:
    run = open_run(Path(shutil.copytree(exported.folder, tmp_path / "run")), NullReporter())
    tensors = Int8Settings(weights="per-tensor", calibration_images=16, corrections=())
    settings = asked(formats=("int8",), input="uint8-nhwc", max_drop=50, int8=tensors)
    before = states(run)
    files = to_plain(write_formats(run, settings))["files"]
    after = states(run)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"model.int8.uint8.onnx", "export.json"}
    made = files["int8-uint8"]["quantization"]
    assert (made["weights"], made["calibration_images"]) == ("per-tensor", 16)
    assert files["int8"]["quantization"]["weights"] == "per-channel"
    scales = [
        tensor.dims
        for tensor in onnx.load(str(run.folder / files["int8-uint8"]["path"])).graph.initializer
        if tensor.name.endswith("_scale")
    ]
    assert all(list(shape) in ([], [1]) for shape in scales)
    write_formats(run, settings)
    assert states(run) == after
    # without a word on int8, what is there is right
    write_formats(run, asked(formats=("int8",), input="uint8-nhwc", max_drop=50))
    assert states(run) == after


class Heard(NullReporter):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)


def test_a_target_that_splits_the_network_is_a_warning_and_a_mark(fresh: Run) -> None:
    run = open_run(fresh.folder, heard := Heard())
    asked_for = FormatSettings(formats=("onnx", "fp16"), targets=("cpu", "nnapi"))
    files = to_plain(write_formats(run, asked_for))["files"]
    assert set(files) == set(record_of(fresh)["files"]) == {"onnx", "fp16"}
    for name, file in files.items():
        assert (fresh.folder / file["path"]).exists()
        assert file["targets"]["nnapi"]["split_by"] == ["HardSigmoid"], name
        assert file["targets"]["cpu"]["split_by"] == []
        assert "deprecated" in file["targets"]["nnapi"]["note"]
    (line,) = [line for line in heard.said if line.startswith("warning")]
    assert "nnapi has no HardSigmoid and would run onnx in " in line
    assert "search with --targets nnapi" in line
    # an error for those who ask for one, and the files stay
    before = states(fresh)
    most = files["onnx"]["targets"]["nnapi"]["partitions"]
    with pytest.raises(MobileNASError, match="--max-parts is 1; the files are kept"):
        write_formats(run, replace(asked_for, max_parts=1))
    assert states(fresh) == before
    assert set(to_plain(write_formats(run, replace(asked_for, max_parts=most)))["files"]) == set(
        files
    )


def test_a_form_that_a_target_lacks_is_reported_and_not_refused(exported: Run) -> None:
    record = to_plain(
        write_formats(
            exported, FormatSettings(formats=("int8",), targets=("coreml",), max_drop=100)
        )
    )
    report = record["files"]["int8"]["targets"]["coreml"]
    assert report["verdict"] == "no"
    assert report["partitions"] > 1


def test_a_batch_of_any_size_is_told_where_sizes_must_be_fixed(
    trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    settings = read_json(folder / "run.json")
    settings["settings"]["dynamic_batch"] = True
    write_json(folder / "run.json", settings)
    heard = Heard()
    run = open_run(folder, heard)
    asked_for = FormatSettings(targets=("qnn",))
    before = set(to_plain(write_formats(run, asked_for))["files"])
    (line,) = [text for text in heard.said if text.startswith("warning: ")]
    assert "qnn takes fixed sizes only, and the batch of onnx is of any size" in line
    with pytest.raises(MobileNASError, match="run without --dynamic-batch; the files are kept"):
        write_formats(run, replace(asked_for, max_parts=1))
    assert set(record_of(run)["files"]) == before


def in_int8(trained: Path, folder: Path) -> Run:
    """The same training as a run with --precision int8."""
    shutil.copytree(trained, folder)
    settings = read_json(folder / "run.json")
    settings["settings"]["precision"] = "int8"
    write_json(folder / "run.json", settings)
    return open_run(folder, NullReporter())


@pytest.mark.slow
def test_every_command_makes_the_same_file_in_eight_bits(
    trained: Path, fresh: Run, tmp_path: Path
) -> None:
    run = in_int8(trained, tmp_path / "int8")
    export_stage(run)
    deployed = run.folder / "export/model.int8.onnx"
    content = deployed.read_bytes()
    # as a lost file is made anew, as it is made unless said, and as it is asked for
    deployed.unlink()
    write_formats(run, asked(formats=("int8",), max_drop=100))
    assert deployed.read_bytes() == content
    exported = fresh.folder / "export/model.int8.onnx"
    write_formats(fresh, asked(formats=("int8",), max_drop=100))
    assert exported.read_bytes() == content
    others = (
        Int8Settings(weights="per-tensor"),
        Int8Settings(calibration="percentile"),
        Int8Settings(calibration_images=16),
        Int8Settings(corrections=()),
    )
    made = [content]
    for int8 in (*others, Int8Settings()):
        write_formats(fresh, asked(formats=("int8",), max_drop=100, int8=int8))
        made.append(exported.read_bytes())
    assert made[-1] == content
    assert len(set(made)) == 1 + len(others)


def test_eight_bits_of_an_int8_run_are_the_deployed_ones(
    trained: Path, exported: Run, tmp_path: Path
) -> None:
    run = in_int8(trained, folder := tmp_path / "run")
    record = to_plain(
        write_formats(run, FormatSettings(formats=("int8",), input="uint8-nhwc", max_drop=100))
    )
    assert set(record["files"]) == {"onnx", "int8", "int8-uint8"}
    assert record["deployed"] == "int8"
    made = record["quantization"]
    assert made == record_of(exported)["files"]["int8"]["quantization"]
    assert record["files"]["int8-uint8"]["quantization"] == made
    whole = onnx.load(str(folder / "export/model.int8.onnx")).graph
    folded = onnx.load(str(folder / "export/model.int8.uint8.onnx")).graph
    assert {tensor.name for tensor in whole.initializer} <= {t.name for t in folded.initializer}
    with pytest.raises(MobileNASError, match="is a run with --precision int8"):
        write_formats(
            run, FormatSettings(formats=("int8",), int8=Int8Settings(corrections=()), max_drop=100)
        )
    before = states(run)["model.int8.onnx"]
    write_formats(
        run, FormatSettings(formats=("int8",), int8=Int8Settings(), max_drop=100)
    )  # as it is
    assert states(run)["model.int8.onnx"] == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": ("onnx", "tflite")}, "'tflite'; it must be one of onnx, fp16, int8, ort"),
        ({"targets": ("tpu",)}, "'tpu'; it must be one of cpu, xnnpack, qnn, nnapi, coreml"),
        ({"input": "nchw"}, "'nchw'; it must be one of float-nchw, uint8-nhwc"),
        ({"max_drop": -1}, "--max-drop is -1; it must be between 0 and 100"),
        ({"max_parts": 0}, "--max-parts is 0; it must be between 1 and 10000"),
        ({"int8": Int8Settings()}, "options of int8 are given, but int8 is not in --formats"),
    ],
)
def test_unknown_settings_name_what_is_known(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileNASError) as raised:
        FormatSettings(**settings)
    assert message in str(raised.value)
