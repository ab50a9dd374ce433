import copy
import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mobilenas.core.errors import DataError, DivergedError, MobileNASError
from mobilenas.data import ImageData, Split, TensorStore
from mobilenas.search.space_cells import cell_space_for
from mobilenas.spaces.base import searchable
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.build import DropPath
from mobilenas.spaces.cell.genotypes import parse_genotype
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.networks import build
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.train import Recipe, Trainer, evaluate, parameter_groups

ARCH = MobileArch(
    image_size=8,
    in_channels=3,
    classes=3,
    stem=Stem(channels=8, stride=1, activation="hard_swish"),
    blocks=(
        Block(kernel=3, hidden=16, out=8, stride=2, squeeze=8, activation="relu"),
        Block(kernel=3, hidden=8, out=8, stride=1, squeeze=0, activation="relu6"),
    ),
    head=Head(channels=16, hidden=16, activation="hard_swish", dropout=0.2),
)
# drop path acts on all but the skip, and the third node is not there
CELLS = CellArch(
    image_size=8,
    in_channels=3,
    classes=3,
    stem="cifar",
    layers=3,
    channels=4,
    genotype=parse_genotype(
        "Genotype(normal=[[('sep_conv_3x3', 1)], [('skip_connect', 0), ('max_pool_3x3', 2)], []], "
        "normal_concat=[2, 3, 4], reduce=[[('dil_conv_3x3', 1)]], reduce_concat=[2])"
    ),
    auxiliary=True,
    drop_path=0.3,
)
ARCHS = pytest.mark.parametrize("arch", [ARCH, CELLS], ids=["mobile", "cell"])
RECIPE = Recipe(epochs=3, batch_size=16, warmup_epochs=0.5, learning_rate=0.05)
PHOTO = replace(
    RECIPE,
    optimizer="adamw",
    crop_scale=0.5,
    trivialaugment=True,
    random_erasing=0.5,
    mixup=0.2,
    cutmix=0.2,
)


def tiny_data(size=48):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size + 48) % 3
    pixels = torch.randint(0, 90, (len(labels), 3, 8, 8), generator=generator)
    pixels[torch.arange(len(labels)), labels] += 60
    store = TensorStore(pixels.to(torch.uint8), 8)
    places = torch.arange(len(labels)).split([size, 24, 24])
    train, val, test = (Split(store, part, labels[part]) for part in places)
    return ImageData(
        name="tiny",
        classes=("red", "green", "blue"),
        image_size=8,
        mean=(0.25, 0.25, 0.25),
        std=(0.15, 0.15, 0.15),
        flip=True,
        train=train,
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


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


@ARCHS
def test_the_classes_are_learned(arch):
    trainer = Trainer(arch, DATA, replace(RECIPE, epochs=20, learning_rate=0.2), seed=0)
    losses = [trainer.run_epoch()["loss"] for _ in range(20)]
    assert losses[-1] < losses[0]
    assert trainer.epochs_done == 20
    assert trainer.evaluate(DATA.val).top1 > 40  # of three classes; seeds give 66 to 100


def test_seed_decides_everything_and_the_global_generator_is_left_alone():
    def weights(seed, noise):
        torch.manual_seed(noise)
        trainer = Trainer(ARCH, DATA, RECIPE, seed=seed)
        trainer.run_epoch()
        after = torch.rand(1)
        torch.manual_seed(noise)
        assert torch.equal(after, torch.rand(1))
        return trainer.weights()

    assert same(weights(0, 1), weights(0, 2))
    assert not same(weights(0, 1), weights(1, 1))


@pytest.mark.parametrize(
    ("arch", "recipe"), [(ARCH, RECIPE), (CELLS, PHOTO)], ids=["mobile", "cell-photo"]
)
def test_a_reloaded_trainer_goes_on_bit_for_bit(arch, recipe):
    whole = Trainer(arch, DATA, recipe, seed=0)
    whole.run_epoch()
    state = whole.state_dict()
    log = [whole.run_epoch(), whole.run_epoch()]

    rest = Trainer(arch, DATA, recipe, seed=0)
    rest.load_state_dict(state)
    assert rest.epochs_done == 1
    again = [rest.run_epoch(), rest.run_epoch()]
    assert [(line["loss"], line["lr"]) for line in again] == [
        (line["loss"], line["lr"]) for line in log
    ]
    assert same(rest.weights(), whole.weights())
    assert same(rest.state_dict()["network"], whole.state_dict()["network"])


def rates(network):
    return {module.rate for module in network.modules() if isinstance(module, DropPath)}


def test_drop_path_rises_linearly_from_nothing_with_the_epochs():
    trainer = Trainer(CELLS, DATA, RECIPE, seed=0)
    seen = []
    for _ in range(3):
        trainer.run_epoch()
        seen += rates(trainer._network)
    assert seen == pytest.approx([0, 0.1, 0.2])
    other = Trainer(replace(CELLS, drop_path=0.0), DATA, RECIPE, seed=0)
    assert other.run_epoch()["loss"] == Trainer(CELLS, DATA, RECIPE, seed=0).run_epoch()["loss"]
    # in the second epoch something is dropped
    again = Trainer(CELLS, DATA, RECIPE, seed=0)
    again.run_epoch()
    assert other.run_epoch()["loss"] != again.run_epoch()["loss"]


def test_the_auxiliary_classifier_adds_four_tenths_of_its_loss():
    trainer = Trainer(CELLS, DATA, RECIPE, seed=0)
    network = trainer._network.train()
    network.start_epoch(0.0)
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    logits, auxiliary = network.forward_both(x)
    expected = F.cross_entropy(logits, y, label_smoothing=RECIPE.label_smoothing)
    expected += 0.4 * F.cross_entropy(auxiliary, y, label_smoothing=RECIPE.label_smoothing)
    assert trainer._step(x, y, 0.1)[0].item() == pytest.approx(expected.item())
    assert all(weight.grad.abs().sum() > 0 for weight in network.auxiliary.parameters())
    # nobody else sees it
    bare = Trainer(replace(CELLS, auxiliary=False, drop_path=0.0), DATA, RECIPE, seed=0)
    alone = F.cross_entropy(bare._network(x), y, label_smoothing=RECIPE.label_smoothing)
    assert bare._step(x, y, 0.1)[0].item() == pytest.approx(alone.item())


def test_only_dense_weights_decay():
    network = build(ARCH)
    decaying, others = parameter_groups(network, 1e-3)
    assert (decaying["weight_decay"], others["weight_decay"]) == (1e-3, 0.0)
    names = {id(weight): name for name, weight in network.named_parameters()}
    decayed = {names[id(weight)] for weight in decaying["params"]}
    kept = {names[id(weight)] for weight in others["params"]}
    assert decayed | kept == set(names.values())
    assert not decayed & kept
    assert decayed == {
        "stem.0.weight",
        "blocks.0.expand.0.weight",
        "blocks.0.squeeze_excite.reduce.weight",
        "blocks.0.squeeze_excite.expand.weight",
        "blocks.0.project.0.weight",
        "blocks.1.project.0.weight",
        "head.0.weight",
        "classifier.0.weight",
        "classifier.3.weight",
    }


@pytest.mark.parametrize("name", ["mobile", "cell"])
def test_a_supernet_decays_what_final_training_decays(tiny_space, name):
    space = (
        tiny_space
        if name == "mobile"
        else cell_space_for((), image_size=8, classes=3, in_channels=3)
    )
    supernet = searchable(space).supernet(space, SamplerSettings(name="full", partial=1))
    decaying, others = parameter_groups(supernet, 1e-3)
    names = {id(weight): name for name, weight in supernet.named_parameters()}
    kept = {names[id(weight)] for weight in others["params"]}
    assert any(".depthwise" in name for name in kept)
    assert {name for name in names.values() if ".depthwise" in name} <= kept
    depthwise = (".depthwise", ".start")
    assert kept == {
        name
        for name, weight in supernet.named_parameters()
        if weight.dim() == 1 or any(part in name for part in depthwise)
    }
    assert len(decaying["params"]) + len(kept) == len(names)


def test_the_average_follows_its_formula():
    recipe = replace(RECIPE, ema_decay=0.25)
    trainer = Trainer(ARCH, DATA, recipe, seed=0)
    network, average = trainer._network, trainer.model
    seen = []
    step = trainer._step

    def watched(*args):
        value = step(*args)
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return value

    trainer._step = watched
    trainer.run_epoch()
    expected = seen[0]
    for index, state in enumerate(seen[1:], 1):
        decay = min(0.25, (1 + index) / (10 + index))
        expected = {
            name: decay * expected[name] + (1 - decay) * value
            if value.is_floating_point()
            else value
            for name, value in state.items()
        }
    assert len(seen) == 3
    assert not average.training
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not same(average.state_dict(), network.state_dict())


def test_the_rate_of_each_step_is_the_recipes():
    trainer = Trainer(ARCH, DATA, RECIPE, seed=0)
    for epoch in range(3):
        last = trainer.run_epoch()["lr"]
        assert last == RECIPE.learning_rate_at(epoch + 2.5 / 3)


def test_adamw_takes_the_recipes_numbers():
    trainer = Trainer(ARCH, DATA, replace(RECIPE, optimizer="adamw", momentum=0.8), seed=0)
    assert isinstance(trainer._optimizer, torch.optim.AdamW)
    for group, decay in zip(trainer._optimizer.param_groups, (4e-5, 0.0), strict=True):
        assert group["betas"] == (0.8, 0.999)
        assert group["weight_decay"] == decay
    weights = trainer._network.classifier[-1].weight
    before = weights.detach().clone()
    trainer._step(torch.randn(8, 3, 8, 8), torch.arange(8) % 3, 0.01)
    # the first step of Adam is as long as the rate, in every direction
    moved = (weights - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=0, atol=1e-3)


def test_given_layers_move_at_their_share_of_the_rate():
    recipe = replace(RECIPE, momentum=0.0, backbone_rate=0.1, weight_decay=0.0)
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    start = build(ARCH)
    moves = []
    for each in (recipe, replace(recipe, backbone_rate=1.0)):
        trainer = Trainer(ARCH, DATA, each, seed=0, network=copy.deepcopy(start))
        torch.manual_seed(0)
        trainer._step(x, y, 0.05)
        network = trainer._network
        moves.append(
            [
                network.stem[0].weight - start.stem[0].weight,
                network.classifier[0].weight - start.classifier[0].weight,
                network.classifier[-1].weight - start.classifier[-1].weight,
            ]
        )
    for share, slow, usual in zip((0.1, 0.1, 1.0), *moves, strict=True):
        assert usual.abs().max() > 1e-5
        torch.testing.assert_close(slow, share * usual, rtol=1e-3, atol=1e-7)
    # weights that the seed drew are no backbone
    scratch = Trainer(ARCH, DATA, recipe, seed=0)
    scratch._step(x, y, 0.05)
    assert {group["lr"] for group in scratch._optimizer.param_groups} == {0.05}


@pytest.mark.parametrize("given", [True, False])
def test_frozen_norms_keep_the_statistics_they_were_given(given):
    recipe = replace(RECIPE, freeze_norms=True)
    trainer = Trainer(ARCH, DATA, recipe, seed=0, network=build(ARCH) if given else None)
    norm = trainer._network.stem[1]
    before, weight = norm.running_mean.clone(), norm.weight.detach().clone()
    trainer.run_epoch()
    assert torch.equal(norm.running_mean, before) == given
    assert not torch.equal(norm.weight, weight)


def test_shares_of_labels_are_smoothed_like_labels():
    recipe = replace(RECIPE, label_smoothing=0.2)
    trainer = Trainer(replace(ARCH, head=replace(ARCH.head, dropout=0.0)), DATA, recipe, seed=0)
    network = copy.deepcopy(trainer._network).train()
    x, shares = torch.randn(4, 3, 8, 8), torch.tensor([[0.75, 0.25, 0.0]] * 4)
    wanted = torch.tensor([[0.8 * 0.75, 0.8 * 0.25, 0.0]] * 4) + 0.2 / 3
    expected = -(wanted * network(x).log_softmax(1)).sum(1).mean()
    assert trainer._step(x, shares, 0.1)[0].item() == pytest.approx(expected.item())


def test_mixed_precision_is_refused_on_the_cpu():
    with pytest.raises(MobileNASError, match="amp is 'bfloat16'; that is for --device cuda"):
        Trainer(ARCH, DATA, replace(RECIPE, amp="bfloat16"), seed=0)


def test_a_loss_that_is_not_finite_is_named_with_its_place():
    trainer = Trainer(ARCH, DATA, RECIPE, seed=0)
    trainer.run_epoch()
    with torch.no_grad():
        next(trainer._network.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="epoch 2, step 1"):
        trainer.run_epoch()
    assert trainer.epochs_done == 1
    right, wrong = torch.tensor([0.25, 1.0]), torch.tensor([0.5, math.inf])
    with pytest.raises(DivergedError, match=r"step 18: the loss is 0\.5 and its gradient inf"):
        trainer._read([right, wrong, right], 16)


def test_evaluation_counts_by_hand():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 2.0, 1.0]).expand(len(x), 3)

    model = Constant().train()
    result = evaluate(model, DATA.val, DATA)
    assert result.top1 == pytest.approx(100 * (DATA.val.labels == 1).float().mean().item())
    log_sum = math.log(1 + math.exp(2) + math.exp(1))
    assert result.loss == pytest.approx(log_sum - 1)  # the labels are spread evenly
    assert torch.equal(result.predictions, torch.ones(24, dtype=torch.int64))
    assert model.training


def test_another_split_and_a_set_smaller_than_a_batch():
    few = DATA.train.subset([0, 1, 2, 3, 4])
    trainer = Trainer(ARCH, DATA, RECIPE, seed=0, split=few)
    assert trainer.steps_per_epoch == 1
    assert math.isfinite(trainer.run_epoch()["loss"])
    assert Trainer(ARCH, tiny_data(50), RECIPE, seed=0).steps_per_epoch == 3
    with pytest.raises(DataError, match="too few"):
        Trainer(ARCH, DATA, RECIPE, seed=0, split=DATA.train.subset([0]))
    with pytest.raises(DataError, match="no images"):
        evaluate(trainer.model, DATA.val.subset([]), DATA)


@pytest.mark.parametrize("field", ["image_size", "in_channels", "classes"])
def test_an_arch_for_other_images_is_refused(field):
    with pytest.raises(MobileNASError, match=f"{field} is 4"):
        Trainer(replace(ARCH, **{field: 4}), DATA, RECIPE, seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", [None, "off", "float16"])
def test_a_gpu_trains_and_resumes(amp):
    recipe = replace(RECIPE, amp=amp)
    whole = Trainer(ARCH, DATA, recipe, seed=0, device="cuda")
    whole.run_epoch()
    rest = Trainer(ARCH, DATA, recipe, seed=0, device="cuda")
    rest.load_state_dict(whole.state_dict())
    assert whole.run_epoch()["loss"] == rest.run_epoch()["loss"]
    assert same(whole.weights(), rest.weights())
    assert whole.evaluate(DATA.val).predictions.device.type == "cpu"


def test_the_trainer_of_the_tables_takes_the_same_steps(monkeypatch):
    """bench/captured.py trains tables on a GPU; without one its step runs as it is."""
    bench = Path(__file__).parents[2] / "bench"
    monkeypatch.syspath_prepend(str(bench))
    captured = importlib.import_module("captured")
    trainers = [
        Trainer(ARCH, DATA, RECIPE, seed=0),
        captured.CapturedTrainer(ARCH, DATA, RECIPE, seed=0, device="cpu"),
    ]
    logs = [[trainer.run_epoch() for _ in range(RECIPE.epochs)] for trainer in trainers]
    for ours, theirs in zip(*logs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    ours, theirs = (trainer.weights() for trainer in trainers)
    for name, weight in ours.items():
        if weight.is_floating_point():
            torch.testing.assert_close(theirs[name], weight, rtol=1e-2, atol=1e-3)
