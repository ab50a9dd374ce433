"""LiteRT and ExecuTorch: the same numbers in their own runtimes; skipped without their packages."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenas.core.errors import MobileNASError
from mobilenas.latency.other_runtimes import latency
from mobilenas.onnx.other_runtimes import RUNTIMES, check_installed, convert, runner
from mobilenas.pipeline.export_settings import FormatSettings
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import build

PACKAGES = {"litert": "litert_torch", "executorch": "executorch"}


@pytest.mark.slow
@pytest.mark.parametrize("form", sorted(RUNTIMES))
def test_a_file_gives_the_module_s_logits_in_its_own_runtime(form: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[form]) is None:
        pytest.skip(f"{PACKAGES[form]} is not installed: mobilenas[{form}]")
    torch.manual_seed(0)
    module = build(mobilenet_v3_small(0.25, 32, 7)).eval()
    path = tmp_path / f"model{RUNTIMES[form].suffix}"
    convert(module, form, path, channels=3, image_size=32)
    run = runner(form, path)
    for _ in range(3):
        image = torch.randn(1, 3, 32, 32)
        with torch.inference_mode():
            expected = module(image).numpy()
        assert np.abs(expected).max() > 1e-3
        assert run(image.numpy()) == pytest.approx(expected, abs=1e-4)
    assert latency(form, run, image.numpy()).median_ms > 0


@pytest.mark.parametrize("form", sorted(RUNTIMES))
def test_without_its_package_the_extra_is_named(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = PACKAGES[form]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MobileNASError, match=rf"pip install 'mobilenas\[{form}\]'"):
        convert(torch.nn.Identity(), form, tmp_path / "m", channels=3, image_size=8)
    with pytest.raises(MobileNASError, match=rf"pip install 'mobilenas\[{form}\]'"):
        check_installed(form)


@pytest.mark.parametrize("form", sorted(RUNTIMES))
def test_pixels_are_for_the_forms_of_onnx(form: str) -> None:
    with pytest.raises(MobileNASError, match=f"format {form} takes float-nchw only"):
        FormatSettings(formats=(form,), input="uint8-nhwc")
