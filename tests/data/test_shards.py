"""WebDataset shards: the same images as a folder's, whole splits, and each fault by name."""

import io
import os
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from mobilenas.core.errors import DataError, FileError
from mobilenas.data import DataSettings, FileStore, ImageData, batches, load_data, shards
from mobilenas.data.patterns import expand_braces
from mobilenas.data.shards import NAMES_FILE


@pytest.fixture(autouse=True)
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value % 256, (3 * value) % 256, 9)).save(file, format="PNG")
    return file.getvalue()


def pack(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def samples(values: range, labels: tuple[object, ...] = (0, 1)) -> dict[str, bytes]:
    """Images of these red values, labelled in turn."""
    found = {}
    for value in values:
        label = labels[value % len(labels)]
        found |= {f"{value:03}.png": png(value), f"{value:03}.cls": f"{label}\n".encode()}
    return found


def load(source: object, **settings: object) -> ImageData:
    return load_data(DataSettings(source=f"wds:{source}", **settings))  # type: ignore[arg-type]


def labelled(data: ImageData) -> dict[str, dict[int, str]]:
    """Class of each red value, by split."""
    return {
        name: dict(
            zip(
                split.images(range(len(split)))[:, 0, 0, 0].tolist(),
                (data.classes[label] for label in split.labels.tolist()),
                strict=True,
            )
        )
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }


class TestBraces:
    @pytest.mark.parametrize(
        ("pattern", "paths"),
        [
            ("a.tar", ["a.tar"]),
            ("{08..11}", ["08", "09", "10", "11"]),
            ("{8..11}", ["8", "9", "10", "11"]),
            ("{0..2}.{a,b}", ["0.a", "0.b", "1.a", "1.b", "2.a", "2.b"]),
            ("{2..0}", ["0", "1", "2"]),
            ("{a}{,x}", ["a", "ax"]),
        ],
    )
    def test_expand_as_in_a_shell(self, pattern: str, paths: list[str]) -> None:
        assert expand_braces(pattern) == paths

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("{a,{1..2}}", "braces are not nested"),
            ("a{1..2", "is not a pattern"),
            ("", "is not a pattern"),
            ("{0..9999}{0..9999}", "more than 1,000,000 shards"),
            ("{0..99999999999}", "more than 1,000,000 shards"),
            ("https://host/{0..2}.tar", "is not a path"),
        ],
    )
    def test_others_are_refused(self, pattern: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            expand_braces(pattern)


class TestSplits:
    def test_drawn_from_all_shards(self, tmp_path: Path) -> None:
        pack(tmp_path / "a-0.tar", samples(range(20)))
        pack(tmp_path / "a-1.tar", samples(range(20, 40)))
        data = load(tmp_path / "a-{0..1}.tar")
        found = labelled(data)
        assert [len(split) for split in found.values()] == [28, 6, 6]
        assert {value: str(value % 2) for value in range(40)} == {
            value: label for split in found.values() for value, label in split.items()
        }
        assert all({value < 20 for value in split} == {True, False} for split in found.values())
        assert data.split_rule == "70/15/15 % of each class by sorted names, seed 0"
        assert labelled(load(tmp_path / "a-{0..1}.tar", split_seed=1)) != found

    def test_the_same_as_of_a_folder(self, tmp_path: Path) -> None:
        names = ("cat", "dog")
        pack(tmp_path / "a.tar", samples(range(40), names))
        for name, content in samples(range(40), names).items():
            folder = tmp_path / "folder" / names[int(name[:3]) % 2]
            folder.mkdir(parents=True, exist_ok=True)
            if name.endswith(".png"):
                (folder / name).write_bytes(content)
        shards, folder = (
            load(tmp_path / "a.tar"),
            load_data(DataSettings(source=str(tmp_path / "folder"))),
        )
        assert labelled(shards) == labelled(folder)
        assert (shards.mean, shards.std, shards.flip) == (folder.mean, folder.std, folder.flip)

    @pytest.mark.parametrize(
        ("train", "val"),
        [("imagenet1k-train-0.tar", "imagenet1k-validation-0.tar"), ("train/0.tar", "val/0.tar")],
    )
    def test_by_name_of_shard_or_folder(self, tmp_path: Path, train: str, val: str) -> None:
        pack(tmp_path / train, samples(range(20)))
        pack(tmp_path / val, samples(range(100, 110)))
        data = load(f"{tmp_path / train}::{tmp_path / val}")
        found = labelled(data)
        assert set(found["val"]) == {*range(100, 110)}
        assert set(found["train"]) | set(found["test"]) == {*range(20)}
        assert data.split_rule == (
            f"the shards {train}, {val}; test is 15 % of each class of train, seed 0"
        )

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("train-0.tar", "other-0.tar"), "other-0.tar has none of train, val and test"),
            (("val-0.tar", "test-0.tar"), "shards of test and val, but none of train"),
            (("train-val.tar", "a.tar"), "train-val.tar could be of train or val"),
        ],
    )
    def test_unclear_names(self, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
        for name in names:
            pack(tmp_path / name, samples(range(8)))
        with pytest.raises(DataError, match=message):
            load("::".join(str(tmp_path / name) for name in names))

    def test_a_class_that_train_has_not(self, tmp_path: Path) -> None:
        pack(tmp_path / "train.tar", samples(range(8)))
        pack(tmp_path / "val.tar", samples(range(6), (0, 1, 7)))
        with pytest.raises(DataError, match=r"val\.tar has classes that train does not have: 7"):
            load(tmp_path / "{train,val}.tar")


class TestLabels:
    def test_numbers_are_sorted_as_numbers(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(40), (10, 9, "003", 0)))
        data = load(tmp_path / "a.tar")
        assert data.classes == ("0", "3", "9", "10")
        assert not data.flip

    def test_names_of_numbers(self, tmp_path: Path) -> None:
        pack(tmp_path / "train" / "a.tar", samples(range(8), (2, 0)))
        pack(tmp_path / "val" / "a.tar", samples(range(8), (2, 0)))
        (tmp_path / NAMES_FILE).write_text("owl\nbird \ncat\n")
        data = load(tmp_path / "{train,val}" / "a.tar")
        assert data.classes == ("owl", "cat")
        assert labelled(data)["val"][0] == "cat"
        assert data.flip

    @pytest.mark.parametrize(
        ("label", "names", "message"),
        [
            ("-1", None, r"the label of .*a\.tar/000\.png is -1; .* from 0"),
            ("2", "owl\ncat", r"000\.png is 2; .*classnames.txt names 2 classes, from 0 to 1"),
            ("cat", "owl\ncat", r"000\.png is cat; "),
            ("0", "owl\n\ncat", "classnames.txt, line 2: the name of a class is missing"),
            (
                "0",
                "crane\ncrane",
                "classnames.txt has two classes of nearly the same name, 'crane'",
            ),
            ("Cat", None, "two classes of nearly the same name, 'Cat' and 'cat'"),
            ("", None, r"a\.tar: 000\.cls must be a number or the name"),
            ("a\nb", None, r"a\.tar: 000\.cls must be a number or the name"),
            ("a" * 2000, None, r"a\.tar: 000\.cls must be a number or the name"),
        ],
    )
    def test_out_of_range(
        self, tmp_path: Path, label: str, names: str | None, message: str
    ) -> None:
        others = ("cat", "dog") if label == "Cat" else (0, 1)
        pack(tmp_path / "a.tar", samples(range(10), others) | {"000.cls": label.encode()})
        if names:
            (tmp_path / NAMES_FILE).write_text(names)
        with pytest.raises(DataError, match=message):
            load(tmp_path / "a.tar")


class TestMembers:
    def test_others_are_skipped_and_counted(self, tmp_path: Path) -> None:
        extra = {"000.json": b"{}", "001.seg.png": png(1), "._002.png": b"x", "README": b"x"}
        pack(tmp_path / "a.tar", samples(range(10)) | extra)
        data = load(tmp_path / "a.tar")
        assert sum(map(len, (data.train, data.val, data.test))) == 10
        skipped = "neither images nor labels were skipped: 1 .json, 1 .seg.png, 1 without suffix"
        assert any(skipped in note for note in data.notes)

    def test_heic_is_refused_by_name(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(10)) | {"x.heic": b"x", "x.cls": b"0"})
        with pytest.raises(DataError, match=r"a\.tar/x\.heic is not read; convert"):
            load(tmp_path / "a.tar")
        assert len(load(tmp_path / "a.tar", skip_bad_images=True).names) == 10

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            ({"x.jpg": b""}, r"holds x\.jpg, but no \.cls"),
            ({"x.cls": b"0"}, r"holds x\.cls, but no image"),
            ({"000.jpg": b""}, r"holds two images of one sample, 000\.png and 000\.jpg"),
            ({"x.y.jpg": b"", "x.y.cls": b"0"}, r"holds x\.y\.jpg, but no image x\.jpg"),
            *(
                ({f"x.{suffix}": pickle.dumps(0)}, rf"holds x\.{suffix}, a pickle, .* refused")
                for suffix in ("pyd", "pkl", "pickle", "PTH", "pkl.gz")
            ),
        ],
        ids=str,
    )
    def test_faults(self, tmp_path: Path, extra: dict[str, bytes], message: str) -> None:
        pack(tmp_path / "a.tar", samples(range(10)) | extra)
        with pytest.raises(DataError, match=rf"a\.tar {message}"):
            load(tmp_path / "a.tar")

    @pytest.mark.parametrize("name", ["000.png", "000.cls"])
    def test_the_same_name_twice(self, tmp_path: Path, name: str) -> None:
        pack(tmp_path / "a.tar", samples(range(10)))
        with tarfile.open(tmp_path / "a.tar", "a") as tar:
            tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(DataError, match=rf"a\.tar holds {name} twice"):
            load(tmp_path / "a.tar")

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(10)))
        with tarfile.open(tmp_path / "a.tar", "a") as tar:
            link = tarfile.TarInfo("x.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        with pytest.raises(DataError, match=r"x\.png, which is a link"):
            load(tmp_path / "a.tar")

    def test_a_bad_image_is_named_or_skipped(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(10)) | {"004.png": b"no image"})
        with pytest.raises(DataError, match=r"a\.tar/004\.png cannot be read .*--skip-bad-images"):
            load(tmp_path / "a.tar")
        data = load(tmp_path / "a.tar", skip_bad_images=True)
        assert 4 not in {value for split in labelled(data).values() for value in split}


class TestShards:
    def test_missing(self, tmp_path: Path) -> None:
        pack(tmp_path / "a-0.tar", samples(range(10)))
        with pytest.raises(DataError, match=r"a-1\.tar does not exist, nor 2 other shards"):
            DataSettings(source=f"wds:{tmp_path}/a-{{0..3}}.tar").check_source()

    def test_named_twice(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(10)))
        with pytest.raises(DataError, match=r"a\.tar twice"):
            load(tmp_path / "a{,}.tar")

    def test_cut_short_anywhere(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(8)))
        whole = (tmp_path / "a.tar").read_bytes()
        end = whole.rstrip(b"\0")
        for length in range(0, len(end) + 1, 100):
            (tmp_path / "a.tar").write_bytes(whole[:length])
            with pytest.raises(DataError, match=r"a\.tar is cut short"):
                load(tmp_path / "a.tar")

    @pytest.mark.parametrize("content", [b"x" * 5000, b"\x1f\x8b" * 1000])
    def test_no_tar(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.tar is cut short, or not an uncompressed tar"):
            load(tmp_path / "a.tar")

    def test_damaged_header(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(8)))
        content = bytearray((tmp_path / "a.tar").read_bytes())
        place = content.index(b"005.png")
        content[place] ^= 1
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.tar is damaged at byte {place}"):
            load(tmp_path / "a.tar")

    def test_without_images(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", {"a.json": b"{}"})
        with pytest.raises(DataError, match=r"a\.tar holds no images; it holds 1 \.json"):
            load(tmp_path / "a.tar")


class TestOnDemand:
    def test_a_pass_is_shuffled_over_all_shards(self, tmp_path: Path) -> None:
        for number in range(4):
            pack(tmp_path / f"train-{number}.tar", samples(range(10 * number, 10 * number + 10)))
        pack(tmp_path / "val.tar", samples(range(100, 104)))
        pack(tmp_path / "test.tar", samples(range(104, 108)))
        source = f"{tmp_path}/train-{{0..3}}.tar::{tmp_path}/{{val,test}}.tar"
        memory, disk = load(source), load(source, memory_limit_bytes=0)
        assert isinstance(disk.train.store, FileStore)
        passes = [
            [images for images, _ in batches(data.train, data, batch_size=8, seed=(3,))]
            for data in (memory, disk)
        ]
        assert all(torch.equal(*both) for both in zip(*passes, strict=True))
        red = (torch.cat(passes[1])[:, 0, 0, 0] * disk.std[0] + disk.mean[0]) * 255
        values = [round(value) for value in red.tolist()]
        assert sorted(values) == [*range(40)]
        assert len({value // 10 for value in values[:8]}) > 1

    def test_a_shard_that_changes_meanwhile(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tar"
        pack(path, samples(range(20)))
        data = load(path, memory_limit_bytes=0, skip_bad_images=True)
        os.utime(path, ns=(0, 0))
        with pytest.raises(FileError, match=r"a\.tar was changed since its images were listed"):
            data.train.images([0])


class TestIndex:
    def test_a_shard_is_looked_through_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(2):
            pack(tmp_path / f"{number}.tar", samples(range(20 * number, 20 * number + 20)))
        source = tmp_path / "{0..1}.tar"
        before = load(source)
        index_shard, seen = shards.index_shard, list[str]()
        monkeypatch.setattr(
            shards, "index_shard", lambda path: seen.append(path.name) or index_shard(path)
        )
        again = load(source)
        assert not seen
        assert (again.fingerprint, labelled(again)) == (before.fingerprint, labelled(before))
        pack(tmp_path / "1.tar", samples(range(40, 61)))
        changed = load(source)
        assert seen == ["1.tar"]
        values = {value for split in labelled(changed).values() for value in split}
        assert values == {*range(20), *range(40, 61)}
        assert changed.fingerprint != before.fingerprint

    def test_a_damaged_index_is_made_again(self, tmp_path: Path) -> None:
        pack(tmp_path / "a.tar", samples(range(20)))
        before = load(tmp_path / "a.tar")
        (index,) = (tmp_path / "cache").rglob("*.msgpack")
        whole = index.read_bytes()
        for content in (b"", b"\xff" * 9, whole[:-3], whole.replace(b"000.png", b"\xff00.png")):
            index.write_bytes(content)
            assert labelled(load(tmp_path / "a.tar")) == labelled(before)
            assert index.read_bytes() == whole

    def test_without_a_place_for_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pack(tmp_path / "a.tar", samples(range(20)))
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert len(load(tmp_path / "a.tar").names) == 20
