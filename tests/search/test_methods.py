"""Presets, and parts said in place of their own."""

from typing import Any

import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.search import SearchSettings
from mobilenas.search.methods import DEFAULT_METHOD, METHODS, settings_for
from mobilenas.supernet.settings import SamplerSettings


def made(name: str, *, cells: bool = True, **parts: Any) -> SearchSettings:
    return settings_for(
        name, parts, cells=cells, epochs=10, batch_size=64, learning_rate=0.1, alpha_steps=100
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cells", [False, True])
def test_a_method_without_other_words_has_its_own_parts(name: str, cells: bool) -> None:
    method, settings = METHODS[name], made(name, cells=cells)
    assert settings.sampler == method.sampler
    assert settings.temperature == method.temperature
    assert settings.entropy.weight == method.entropy.weight
    assert settings.sampling == method.sampling
    assert settings.warmup == round(10 * method.warmup)
    assert settings.edge_weights == (method.edge_weights if cells else "none")
    assert settings.zero_op == (method.zero_op and cells)
    if not cells:
        assert settings.entropy.terms == ("operations",)


def test_the_methods_of_the_papers_differ_as_published() -> None:
    assert {name: m.sampler.name for name, m in METHODS.items()} == {
        "darts": "full",
        "pc-darts": "random",
        "cpm": "ranked",
        "adarts": "attention",
        "da2s": "full",
        "mobilenas": "attention",
    }
    assert made("da2s").entropy.terms == ("operations", "edges")
    assert made("da2s").edge_weights == "clipped"
    assert made("cpm").temperature.end < made("cpm").temperature.start
    assert made("darts").zero_op and not made("adarts").zero_op


def test_any_part_can_be_changed_alone() -> None:
    plain = made("pc-darts")
    changed = made("pc-darts", channel_fraction="1/8")
    assert changed.sampler == SamplerSettings(name="random", partial=8)
    assert changed.temperature == plain.temperature
    assert made("pc-darts", sampler="ranked", attention="eca").sampler == SamplerSettings(
        name="ranked", partial=4, attention="eca"
    )
    assert made("adarts", sampler="ranked").sampler.attention is None
    assert made("darts", sampler="attention").sampler.partial == 4
    assert made("cpm", temperature="0.5").temperature.end == 0.5
    assert made("da2s", entropy=0.0).entropy.weight == 0
    assert made("da2s", entropy_terms="edges").entropy.terms == ("edges",)
    assert made("darts", zero_op=False).zero_op is False
    assert made("darts", order=2).order == 2
    assert made("da2s", warmup=4, on_collapse="stop").warmup == 4


def test_alphas_can_travel_as_far_as_in_the_published_setting() -> None:
    settings = made("darts")
    assert settings.alpha_learning_rate * 100 * (10 - settings.warmup) == pytest.approx(6.0)
    assert made(DEFAULT_METHOD, cells=False).alpha_learning_rate == 0.03


@pytest.mark.parametrize(
    ("name", "parts", "words"),
    [
        ("da2s", {"order": 2}, "--order 2 is not published for da2s; it is for darts"),
        (
            "darts",
            {"order": 2, "sampling": "gumbel"},
            "--order 2 needs --sampling softmax, not gumbel",
        ),
        ("darts", {"channel_fraction": "1/4"}, "--channel-fraction 1/4 needs --sampler"),
        ("pc-darts", {"channel_fraction": "1/3"}, "'1/3' cannot be read"),
        ("pc-darts", {"attention": "se"}, "random"),
        ("darts", {"attention": "se"}, "full"),
        ("adarts", {"attention": "sse"}, "se, eca, cbam"),
        ("da2s", {"entropy_terms": "egdes"}, "egdes"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(
    name: str, parts: dict[str, Any], words: str
) -> None:
    with pytest.raises(MobileNASError, match=words):
        made(name, **parts)
