"""Reading on demand leaves nothing behind, pass after pass."""

import gc
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from mobilenas.data import Augmentation, DataSettings, FileStore, batches, load_data


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed on Linux")
@pytest.mark.parametrize("ends", [True, False], ids=["whole", "abandoned"])
def test_passes_keep_no_files_threads_or_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(80):
        folder = tmp_path / "images" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number}.png")
    data = load_data(DataSettings(source=str(tmp_path / "images"), memory_limit_bytes=0))
    assert isinstance(data.train.store, FileStore)

    def one_pass(epoch: int) -> tuple[int, int, int]:
        given = batches(data.train, data, batch_size=8, seed=(epoch,), augmentation=Augmentation())
        for number, _ in enumerate(given):
            if number == 2 and not ends:
                break
        del given
        gc.collect()
        tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), tensors

    one_pass(0)
    first, *later = (one_pass(epoch) for epoch in range(1, 6))
    assert later == [first] * 4
