"""Split rules and batches: what they keep, and that a seed says everything."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mobilenas.core.errors import DataError, MobileNASError
from mobilenas.data import (
    Augmentation,
    DataSettings,
    ImageData,
    Split,
    TensorStore,
    batches,
    batches_per_pass,
    halves,
    load_data,
    stratified_parts,
    stratified_subset,
)

SEEDS = st.integers(0, 2**40)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(torch.tensor)


def split_of(labels: Tensor, side: int = 8) -> Split:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (len(labels), 3, side, side), dtype=torch.uint8, generator=generator
    )
    return Split(TensorStore(pixels, side), torch.arange(len(labels)), labels)


def data_of(count: int, side: int = 8, flip: bool = False) -> ImageData:
    split = split_of(torch.arange(count) % 3, side)
    return ImageData(
        name="noise",
        classes=("a", "b", "c"),
        image_size=side,
        mean=(0.5, 0.25, 0.125),
        std=(0.25, 0.5, 1.0),
        flip=flip,
        train=split,
        val=split,
        test=split,
        fingerprint="",
        split_rule="",
    )


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(DataSettings(source="digits"))


class TestSplitRules:
    @given(labels=LABELS, seed=SEEDS)
    def test_parts_are_disjoint_complete_and_stratified(self, labels: Tensor, seed: int) -> None:
        parts = stratified_parts(labels, (0.15, 0.2), seed)
        assert torch.cat(parts).sort().values.tolist() == list(range(len(labels)))
        for label in labels.unique().tolist():
            rest, first, second = (int((labels[part] == label).sum()) for part in parts)
            count = rest + first + second
            assert rest >= 1
            if count >= 3:
                assert first == max(1, int(count * 0.15 + 0.5))
                assert second == max(1, int(count * 0.2 + 0.5))

    @given(labels=LABELS, seed=SEEDS, shuffle=SEEDS)
    def test_how_classes_are_interleaved_does_not_matter(
        self, labels: Tensor, seed: int, shuffle: int
    ) -> None:
        generator = torch.Generator().manual_seed(shuffle)
        other = labels[torch.randperm(len(labels), generator=generator)]

        def ranks(labels: Tensor) -> list[list[tuple[int, int]]]:
            seen: dict[int, int] = {}
            named = []
            for label in labels.tolist():
                seen[label] = seen.get(label, -1) + 1
                named.append((label, seen[label]))
            return [
                sorted(named[place] for place in part.tolist())
                for part in stratified_parts(labels, (0.3,), seed)
            ]

        assert ranks(labels) == ranks(other)

    @given(labels=LABELS, seed=SEEDS)
    def test_halves(self, labels: Tensor, seed: int) -> None:
        first, second = halves(split_of(labels, 1), seed)
        joined = torch.cat((first.indices, second.indices)).sort().values
        assert joined.tolist() == list(range(len(labels)))
        assert abs(len(first) - len(second)) <= 1
        for label in range(5):
            counts = [int((half.labels == label).sum()) for half in (first, second)]
            assert abs(counts[0] - counts[1]) <= 1
        assert torch.equal(halves(split_of(labels, 1), seed)[0].indices, first.indices)

    @given(labels=LABELS, seed=SEEDS, choice=st.data())
    def test_subset(self, labels: Tensor, seed: int, choice: st.DataObject) -> None:
        size = choice.draw(st.integers(1, len(labels)))
        subset = stratified_subset(split_of(labels, 1), size, seed)
        assert len(subset) == size
        assert len(set(subset.indices.tolist())) == size
        assert torch.equal(labels[subset.indices], subset.labels)
        quotas = torch.bincount(labels, minlength=5) * size / len(labels)
        assert ((torch.bincount(subset.labels, minlength=5) - quotas).abs() < 1).all()

    @pytest.mark.parametrize("size", [0, 11])
    def test_subset_of_another_size(self, size: int) -> None:
        with pytest.raises(DataError, match=f"{size} images was requested; there are 10"):
            stratified_subset(split_of(torch.arange(10) % 2), size, 0)

    def test_seeds_differ(self, digits: ImageData) -> None:
        first, second = (halves(digits.train, seed)[0].indices for seed in (0, 1))
        assert first.tolist() != second.tolist()


class TestInOrder:
    def test_values_shape_and_format(self) -> None:
        data = data_of(10)
        found = list(batches(data.val, data, batch_size=4, seed=None))
        assert [len(labels) for _, labels in found] == [4, 4, 2]
        images = torch.cat([images for images, _ in found])
        mean = torch.tensor(data.mean).view(1, 3, 1, 1)
        std = torch.tensor(data.std).view(1, 3, 1, 1)
        expected = (data.val.images(range(10)) / 255 - mean) / std
        torch.testing.assert_close(images, expected)
        assert found[0][0].dtype == torch.float32
        assert found[0][0].is_contiguous(memory_format=torch.channels_last)
        assert torch.cat([labels for _, labels in found]).tolist() == data.val.labels.tolist()

    def test_training_statistics_become_zero_and_one(self, digits: ImageData) -> None:
        (images, _), *_ = batches(digits.train, digits, batch_size=5000, seed=None)
        assert images.mean().item() == pytest.approx(0, abs=1e-5)
        assert images.std().item() == pytest.approx(1, abs=1e-3)


class TestSeed:
    @pytest.mark.parametrize(
        "augmentation",
        [
            Augmentation(),
            Augmentation(randaugment=2),
            Augmentation(crop_scale=0.3, trivialaugment=True, random_erasing=0.5, mixup=1),
            Augmentation(random_erasing=0.5, mixup=0.2, cutmix=1),
        ],
        ids=["shifts", "randaugment", "photo", "mixed"],
    )
    def test_a_pass_is_replayed_whatever_the_global_state(self, augmentation: Augmentation) -> None:
        data = data_of(20, flip=True)
        passes = []
        for state in (1, 2):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            passes.append(
                list(
                    batches(
                        data.train, data, batch_size=8, seed=(3, 1, 4), augmentation=augmentation
                    )
                )
            )
            assert torch.equal(torch.get_rng_state(), before)
        for first, second in zip(*passes, strict=True):
            assert torch.equal(first[0], second[0])
            assert torch.equal(first[1], second[1])

    def test_every_number_counts(self) -> None:
        data = data_of(20)
        orders = {
            seed: tuple(next(batches(data.train, data, batch_size=20, seed=seed))[1].tolist())
            for seed in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0))
        }
        assert len(set(orders.values())) == len(orders)

    def test_all_images_once(self) -> None:
        data = data_of(30)
        plain = torch.cat([x for x, _ in batches(data.train, data, batch_size=7, seed=None)])
        shuffled = torch.cat([x for x, _ in batches(data.train, data, batch_size=7, seed=(1,))])
        sums = (images.sum((1, 2, 3)).sort().values for images in (plain, shuffled))
        torch.testing.assert_close(next(sums), next(sums))

    @given(
        count=st.integers(1, 40),
        batch_size=st.integers(2, 12),
        drop_last=st.booleans(),
        shuffled=st.booleans(),
    )
    def test_batch_sizes(
        self, count: int, batch_size: int, drop_last: bool, shuffled: bool
    ) -> None:
        data = data_of(count, 1)
        seed = (1,) if shuffled else None
        found = [
            len(labels)
            for _, labels in batches(
                data.train, data, batch_size=batch_size, seed=seed, drop_last=drop_last
            )
        ]
        expected = batches_per_pass(data.train, batch_size, shuffled=shuffled, drop_last=drop_last)
        assert len(found) == expected
        if drop_last:
            assert found == [batch_size] * (count // batch_size)
        elif not shuffled or count > 1:
            assert sum(found) == count
        if shuffled:
            assert 1 not in found

    def test_wrong_calls(self) -> None:
        data = data_of(6)
        with pytest.raises(DataError, match="batch_size is 1; it must be at least 2"):
            batches(data.train, data, batch_size=1, seed=(0,))
        with pytest.raises(DataError, match="needs a seed"):
            batches(data.train, data, batch_size=2, seed=None, augmentation=Augmentation())


class TestAugmentation:
    def views(self, image: Tensor, padding: int, flip: bool) -> list[Tensor]:
        """Every crop, and mirrored crop, of a normalised [3, H, W]."""
        side = image.shape[-1]
        padded = torch.nn.functional.pad(image, (padding,) * 4)
        shifts = range(2 * padding + 1)
        crops = [padded[:, y : y + side, x : x + side] for y in shifts for x in shifts]
        mirrored = torch.nn.functional.pad(image.flip(-1), (padding,) * 4)
        both = [mirrored[:, y : y + side, x : x + side] for y in shifts for x in shifts]
        return crops + (both if flip else [])

    @pytest.mark.parametrize(("padding", "flip"), [(0, True), (2, False), (2, True), (9, True)])
    def test_each_image_is_one_of_its_views(self, padding: int, flip: bool) -> None:
        data = data_of(24)
        (plain, _), *_ = batches(data.train, data, batch_size=24, seed=(5,))
        (varied, _), *_ = batches(
            data.train,
            data,
            batch_size=24,
            seed=(5,),
            augmentation=Augmentation(crop_padding=padding, flip=flip),
        )
        assert varied.is_contiguous(memory_format=torch.channels_last)
        used = set()
        for before, after in zip(plain, varied, strict=True):
            views = self.views(before, padding, flip)
            matches = [place for place, view in enumerate(views) if torch.equal(view, after)]
            assert matches
            used.add(matches[0])
        assert len(used) > 1

    def test_off_is_off(self) -> None:
        data = data_of(6)
        off = Augmentation(crop_padding=0, flip=False)
        (plain, _), *_ = batches(data.train, data, batch_size=6, seed=(5,))
        (same, _), *_ = batches(data.train, data, batch_size=6, seed=(5,), augmentation=off)
        assert torch.equal(plain, same)

    def test_defaults_come_from_the_data(self) -> None:
        data = data_of(12, side=16, flip=True)
        explicit = Augmentation(crop_padding=2, flip=True)
        found = [
            next(batches(data.train, data, batch_size=12, seed=(5,), augmentation=augmentation))[0]
            for augmentation in (Augmentation(), explicit)
        ]
        assert torch.equal(*found)

    def test_randaugment_changes_images(self) -> None:
        data = data_of(12)
        found: list[Tensor] = [
            next(
                batches(
                    data.train,
                    data,
                    batch_size=12,
                    seed=(5,),
                    augmentation=Augmentation(crop_padding=0, randaugment=operations),
                )
            )[0]
            for operations in (0, 3)
        ]
        assert found[0].shape == found[1].shape
        assert not torch.equal(*found)

    def pair(self, data: ImageData, **parts: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A whole pass as it is, and augmented by nothing but `parts`: x, y, x, y."""
        off = Augmentation(crop_padding=0, flip=False)
        only = Augmentation(**{"crop_padding": 0, "flip": False, **parts})  # type: ignore[arg-type]
        (x, y), (varied, shares) = (
            next(batches(data.train, data, batch_size=100, seed=(5,), augmentation=augmentation))
            for augmentation in (off, only)
        )
        assert varied.shape == x.shape
        assert varied.is_contiguous(memory_format=torch.channels_last)
        return x, y, varied, shares

    def test_a_resized_crop_is_a_part_of_the_image(self) -> None:
        data = data_of(12, side=16)
        ramp = torch.arange(0, 256, 16, dtype=torch.uint8).expand(12, 3, 16, 16)
        store = TensorStore(ramp.contiguous(), 16)
        data = replace(data, train=Split(store, torch.arange(12), data.train.labels))
        _, _, same, _ = self.pair(data, crop_scale=1.0)  # no other shape has the whole area
        pixels = torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1) * 255
        steps = torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1) * 255
        torch.testing.assert_close(same * steps + pixels, ramp.float())
        _, _, crops, _ = self.pair(data, crop_scale=0.25)
        slopes = (crops * steps + pixels).diff(dim=-1).mean((1, 2, 3))
        # the whole ramp rises by 16 a pixel; a crop is half as wide or more, up to rounding
        assert (slopes > 6).all()
        assert (slopes < 16.1).all()
        assert slopes.std() > 1

    def test_trivialaugment_changes_single_images(self) -> None:
        x, _, varied, _ = self.pair(data_of(24, side=16), trivialaugment=True)
        changed = [not torch.equal(*both) for both in zip(x, varied, strict=True)]
        assert any(changed)
        assert not all(changed)  # one operation in 14 is none, others may be too weak to see

    def test_an_erased_rectangle_becomes_the_mean(self) -> None:
        x, y, varied, labels = self.pair(data_of(24, side=16), random_erasing=0.5)
        assert torch.equal(y, labels)
        erased = 0
        for before, after in zip(x, varied, strict=True):
            places = (after != before).any(0)
            rows, columns = places.any(1), places.any(0)
            rectangle = after[:, rows][:, :, columns]
            assert torch.equal(rectangle, torch.zeros_like(rectangle))
            erased += bool(places.any())
        assert 4 <= erased <= 20  # of 24, at even odds

    @pytest.mark.parametrize("kind", ["mixup", "cutmix"])
    def test_images_are_mixed_as_their_labels_say(self, kind: str) -> None:
        data = data_of(24, side=16)
        x, y, mixed, shares = self.pair(data, **{kind: 1.0})
        one_hot = torch.nn.functional.one_hot(y, 3).float()
        others, other = x.roll(1, 0), one_hot.roll(1, 0)
        place = int((one_hot != other).any(1).nonzero()[0])
        share = float(shares[place][y[place]])  # of the image itself
        assert 0 < share < 1
        torch.testing.assert_close(shares, share * one_hot + (1 - share) * other)
        if kind == "mixup":
            torch.testing.assert_close(mixed, share * x + (1 - share) * others)
        else:
            own = (mixed == x).all(1)
            assert bool((own | (mixed == others).all(1)).all())
            assert own.float().mean((1, 2)).tolist() == pytest.approx([share] * 24, abs=1e-6)

    def test_with_both_each_batch_draws_one(self) -> None:
        data = data_of(200, side=16)
        both = Augmentation(crop_padding=0, flip=False, mixup=1, cutmix=1)
        drawn = batches(data.train, data, batch_size=20, seed=(5,), augmentation=both)
        # of mixup, no share is a number of pixels but by chance
        areas = [(256 * shares).round().sub(256 * shares).abs().max() for _, shares in drawn]
        cut = [float(area) < 1e-3 for area in areas]
        assert {True, False} == set(cut)

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"crop_padding": -1}, "crop_padding is -1; it must be between"),
            ({"randaugment": -1}, "randaugment is -1; it must be between"),
            ({"crop_scale": 0}, "crop_scale is 0; it must be between"),
            ({"random_erasing": 2}, "random_erasing is 2; it must be between"),
            ({"mixup": -1}, "mixup is -1; it must be between"),
            ({"crop_padding": 2, "crop_scale": 0.5}, "shifted or resized, not both"),
            ({"trivialaugment": True, "randaugment": 2}, "excludes randaugment, which is 2"),
        ],
    )
    def test_wrong_values(self, parts: dict[str, float], message: str) -> None:
        with pytest.raises(MobileNASError, match=message):
            Augmentation(**parts)  # type: ignore[arg-type]
