"""Also a program: `python test_train_run.py FOLDER` trains in FOLDER, to be killed."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file

from mobilenas.core.errors import DivergedError, FileError
from mobilenas.core.files import load_checkpoint, read_jsonl
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData, Split, TensorStore
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.genotypes import parse_genotype
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.networks import build
from mobilenas.train import Recipe, Trainer, evaluate, load_weights, train, train_part

ARCH = MobileArch(
    image_size=8,
    in_channels=3,
    classes=3,
    stem=Stem(channels=8, stride=2, activation="relu"),
    blocks=(Block(kernel=3, hidden=16, out=8, stride=1, squeeze=8, activation="hard_swish"),),
    head=Head(channels=16, hidden=0, activation="relu", dropout=0.2),
)
CELLS = CellArch(
    image_size=8,
    in_channels=3,
    classes=3,
    stem="cifar",
    layers=3,
    channels=4,
    genotype=parse_genotype(
        "Genotype(normal=[[('sep_conv_3x3', 1)], [('skip_connect', 0), ('max_pool_3x3', 2)]], "
        "normal_concat=[2, 3], reduce=[[('dil_conv_3x3', 1)]], reduce_concat=[2])"
    ),
    auxiliary=True,
    drop_path=0.3,
)
RECIPE = Recipe(epochs=4, batch_size=16, warmup_epochs=0.5, learning_rate=0.05)
LONG = replace(RECIPE, epochs=12)


def tiny_data(size=48):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size + 48) % 3
    pixels = torch.randint(0, 90, (len(labels), 3, 8, 8), generator=generator)
    pixels[torch.arange(len(labels)), labels] += 20
    store = TensorStore(pixels.to(torch.uint8), 8)
    places = torch.arange(len(labels)).split([size, 24, 24])
    train_split, val, test = (Split(store, part, labels[part]) for part in places)
    return ImageData(
        name="tiny",
        classes=("red", "green", "blue"),
        image_size=8,
        mean=(0.25, 0.25, 0.25),
        std=(0.15, 0.15, 0.15),
        flip=True,
        train=train_split,
        val=val,
        test=test,
        fingerprint="tiny",
        split_rule="by place",
    )


DATA = tiny_data()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # threads only wait for each other on networks this small
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class StopError(Exception):
    pass


class Recorder:
    """A reporter that keeps what it is told, and stops the training after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after, self.calls = stop_after, []

    def start(self, stage, total):
        self.calls.append((stage, total))

    def step(self, done, figures):
        self.calls.append((done, tuple(figures)))
        if done == self.stop_after:
            raise StopError

    def info(self, message):
        self.calls.append(message)


def without_seconds(folder):
    log = read_jsonl(folder / "log.jsonl")
    assert all(line.pop("seconds") > 0 for line in log)
    return log


def assert_same_files(first, second):
    assert without_seconds(first) == without_seconds(second)
    for name in ("best.safetensors", "last.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def stopped(folder, after, recipe=RECIPE, arch=ARCH):
    with pytest.raises(StopError):
        train(arch, DATA, recipe, folder=folder, seed=0, reporter=Recorder(after))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(ARCH, DATA, RECIPE, folder=folder, seed=0)


def test_the_result_the_log_and_the_files_agree(whole):
    folder, result = whole
    log = read_jsonl(folder / "log.jsonl")
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    assert set(log[0]) == {"epoch", "loss", "val_top1", "lr", "seconds"}
    assert result.epochs == 4
    assert result.val_top1 == max(line["val_top1"] for line in log)
    assert result.val_top1 == log[result.best_epoch - 1]["val_top1"]
    assert result.last_val_top1 == log[-1]["val_top1"]
    assert result.seconds == pytest.approx(sum(line["seconds"] for line in log))
    assert result.params == costs(ARCH).params
    for name, top1 in (("best", result.val_top1), ("last", result.last_val_top1)):
        network = load_weights(ARCH, folder / f"{name}.safetensors")
        assert not network.training
        assert evaluate(network, DATA.val, DATA).top1 == top1


@pytest.mark.parametrize("after", [1, 3])
def test_a_stopped_training_goes_on_bit_for_bit(whole, tmp_path, after):
    stopped(tmp_path, after)
    assert len(without_seconds(tmp_path)) == after
    assert not (tmp_path / "last.safetensors").exists()
    recorder = Recorder()
    resumed = train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0, reporter=recorder)
    assert_same_files(whole[0], tmp_path)
    assert structs.replace(resumed, seconds=0) == structs.replace(whole[1], seconds=0)
    figures = ("loss", "val top-1")
    steps = [(done, figures) for done in range(after, 5)]
    assert recorder.calls == [("train", 4), *steps]


def test_cells_go_on_bit_for_bit_with_the_drop_path_of_their_epoch(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    result = train(CELLS, DATA, RECIPE, folder=whole, seed=0)
    stopped(resumed, 2, arch=CELLS)
    train(CELLS, DATA, RECIPE, folder=resumed, seed=0)
    assert_same_files(whole, resumed)
    # the files hold the auxiliary classifier, which nothing counts
    network = load_weights(CELLS, whole / "best.safetensors")
    assert evaluate(network, DATA.val, DATA).top1 == result.val_top1
    assert any(name.startswith("auxiliary.") for name in load_file(whole / "best.safetensors"))
    assert result.params == sum(weight.numel() for weight in network.deployed_parameters())
    bare = build(replace(CELLS, auxiliary=False))
    assert result.params == sum(weight.numel() for weight in bare.parameters())


def test_a_checkpoint_of_an_older_release_goes_on(tmp_path):
    stopped(tmp_path, 1)
    # what a recipe consisted of then
    assert set(load_checkpoint(tmp_path / "checkpoint.pt")["identity"]["recipe"]) == {
        *("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "label_smoothing"),
        *("warmup_epochs", "ema_decay", "crop_padding", "randaugment", "gradient_clip"),
    }
    with pytest.raises(FileError, match="its recipe differ"):
        train(ARCH, DATA, replace(RECIPE, mixup=0.2), folder=tmp_path, seed=0)


def test_log_lines_without_a_checkpoint_are_dropped(whole, tmp_path):
    stopped(tmp_path, 2)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"epoch": 3, "loss": 9.0, "val_top1": 1.0, "lr": 0.1, "seconds": 1.0}\n{"ep')
    train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0)
    assert_same_files(whole[0], tmp_path)


def test_a_finished_training_is_read_not_repeated(whole, monkeypatch):
    folder, result = whole
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(Trainer, "run_epoch", None)
    assert train(ARCH, DATA, RECIPE, folder=folder, seed=0) == result
    (folder / "best.safetensors").unlink()  # a kill just before it was written
    assert train(ARCH, DATA, RECIPE, folder=folder, seed=0) == result
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_without_a_checkpoint_are_dropped(whole, tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"old")
    train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0)
    assert_same_files(whole[0], tmp_path)


def test_a_given_start_and_one_from_scratch_never_continue_each_other(tmp_path):
    arguments = {"arch": ARCH, "data": DATA, "recipe": RECIPE, "seed": 0}
    starts, begun = {"0": build(ARCH), "1": None}, tmp_path / "begun"
    for name, network in starts.items():
        train_part(2, **arguments, folder=begun / name, network=network)
    for name, network in (("0", None), ("1", build(ARCH))):
        with pytest.raises(FileError, match="belongs to another training: its start differ"):
            train(**arguments, folder=begun / name, network=network)
    # of both that have begun each goes on with its own
    for name, network in starts.items():
        train(**arguments, folder=tmp_path / name, begun=begun, network=network)
        logs = [read_jsonl(folder / name / "log.jsonl") for folder in (begun, tmp_path)]
        assert logs[0] == logs[1][:2]


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"arch": replace(ARCH, head=replace(ARCH.head, channels=24))}, "arch"),
        ({"recipe": replace(RECIPE, learning_rate=0.01)}, "recipe"),
        ({"data": replace(DATA, fingerprint="other")}, "data"),
        ({"seed": 1}, "seed"),
    ],
)
def test_another_training_in_the_same_folder_is_refused(whole, changed, part):
    folder, _ = whole
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    arguments = {"arch": ARCH, "data": DATA, "recipe": RECIPE, "seed": 0} | changed
    with pytest.raises(FileError, match=rf"checkpoint\.pt .* to another training: its {part} "):
        train(**arguments, folder=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_best_and_last_are_told_apart(tmp_path, monkeypatch):
    told = iter([50.0, 70.0, 70.0, 60.0])
    seen = []
    measure = Trainer.evaluate

    def scripted(self, split):
        assert split is DATA.val
        seen.append(self.weights())
        return replace(measure(self, split), top1=next(told))

    monkeypatch.setattr(Trainer, "evaluate", scripted)
    result = train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0)
    assert (result.best_epoch, result.val_top1, result.last_val_top1) == (3, 70.0, 60.0)
    for name, epoch in (("best", 3), ("last", 4)):
        stored = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(stored[key], seen[epoch - 1][key]) for key in stored)
    assert (tmp_path / "best.safetensors").read_bytes() != (
        tmp_path / "last.safetensors"
    ).read_bytes()


def test_the_best_weights_survive_a_stop_after_worse_epochs(tmp_path, monkeypatch):
    told = iter([90.0, 50.0, 50.0, 50.0])
    measure = Trainer.evaluate
    monkeypatch.setattr(
        Trainer, "evaluate", lambda self, split: replace(measure(self, split), top1=next(told))
    )
    stopped(tmp_path, 2)
    best = load_checkpoint(tmp_path / "checkpoint.pt")["best"]
    assert train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0).best_epoch == 1
    stored = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(stored[key], best[key]) for key in best)


def test_the_checkpoint_survives_a_divergence(tmp_path, monkeypatch):
    stopped(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.nn.functional, "cross_entropy", lambda x, *_, **__: x.sum() * float("inf")
        )
        with pytest.raises(DivergedError, match="epoch 3, step 1"):
            train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0).epochs == 4


def test_a_cut_or_strange_checkpoint_is_named(tmp_path):
    stopped(tmp_path, 1)
    checkpoint = tmp_path / "checkpoint.pt"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=r"checkpoint\.pt is truncated"):
        train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0)
    torch.save({"weights": torch.zeros(1)}, checkpoint)
    with pytest.raises(FileError, match="not a checkpoint of a training"):
        train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0)
    checkpoint.write_bytes(content)
    state = load_checkpoint(checkpoint)
    del state["trainer"]["optimizer"]
    torch.save(state, checkpoint)
    with pytest.raises(FileError, match="is not what this release writes"):
        train(ARCH, DATA, RECIPE, folder=tmp_path, seed=0)


def test_weights_that_do_not_fit_are_named(whole, tmp_path):
    folder, _ = whole
    path = tmp_path / "weights.safetensors"
    with pytest.raises(FileError, match="does not exist"):
        load_weights(ARCH, path)
    with pytest.raises(FileError, match="cannot read"):
        load_weights(ARCH, tmp_path)
    path.write_bytes((folder / "last.safetensors").read_bytes()[:-9])
    with pytest.raises(FileError, match="not a complete safetensors file"):
        load_weights(ARCH, path)
    tensors = load_file(folder / "last.safetensors")
    wider = replace(ARCH, head=replace(ARCH.head, channels=24))
    with pytest.raises(FileError, match=r"last\.safetensors .* head\.0\.weight has shape \[16"):
        load_weights(wider, folder / "last.safetensors")
    save_file(tensors | {"odd": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="the model has no odd"):
        load_weights(ARCH, path)
    del tensors["stem.0.weight"]
    save_file(tensors, path)
    with pytest.raises(FileError, match=r"the file has no stem\.0\.weight"):
        load_weights(ARCH, path)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_goes_on_bit_for_bit(struck, tmp_path):
    train(ARCH, DATA, LONG, folder=tmp_path / "whole", seed=0)
    folder = tmp_path / "killed"
    program = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    done = struck(program, folder, at="checkpoint.pt", nth=4, by=signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(load_checkpoint(folder / "checkpoint.pt")["log"]) == 3
    assert not (folder / "last.safetensors").exists()
    train(ARCH, DATA, LONG, folder=folder, seed=0)
    assert_same_files(tmp_path / "whole", folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(ARCH, DATA, LONG, folder=Path(sys.argv[1]), seed=0)
