import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from msgspec.structs import replace

from mobilenas.baselines.paired import difference, mean_std
from mobilenas.core.settings import COUNTING_RULE, from_plain, to_plain
from mobilenas.report.ablation_page import ablation_page
from mobilenas.report.ablation_table import costs_sentence, over_seeds, sentences
from mobilenas.report.plots import INK
from mobilenas.report.records import AblationRecord

EVIL = '<script src="http://evil.example/x.js">alert(1)</script>'
GENOTYPE = "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=[2], ...)"
NAMES = (
    "darts",
    "pc-darts:sampler=attention:channel_fraction=1/2",
    "cpm:temperature=1:0.1",
    "random",
)


def entry(arm: int, seed: int, cells: bool) -> dict[str, Any]:
    found = {
        "seed": seed,
        "arch": {"space": "cell" if cells else "mobile"},
        "choice": {},
        "costs": {"flops": 1_900_000 + 10_000 * arm, "params": 40_000, "memory": 9000},
        "val_top1": 62.0 + arm,
        "top1": 60.0 + 2 * arm + [0.0, 0.5, 0.2, 1.1][seed],
        "gap": None,
        "skips": {"normal": seed, "reduce": arm} if cells else {"blocks": arm},
        "alarms": [],
        "seconds": {"search": 2000.0 + arm, "train": 900.0},
    }
    if NAMES[arm] != "random":
        found["gap"] = {"points_before": 30.0 - arm, "points": 5.0 + seed}
    if cells:
        found |= {"genotype": f"{GENOTYPE[:-1]} {arm}/{seed})", "channels": 10 + 2 * seed}
    return found


def record(*, seeds: int = 3, asked: int = 3, cells: bool = True, arms: int = 4) -> AblationRecord:
    entries = [[entry(arm, seed, cells) for seed in range(seeds)] for arm in range(arms)]
    top1 = [[e["top1"] for e in own] for own in entries]
    # the second arm moves on its own
    for seed, e in enumerate(entries[1] if arms > 1 else []):
        e["top1"] = top1[1][seed] = 60.0 + 3 * (seed % 2)
    plain = {
        "command": f"mobilenas ablate --data 'images/{EVIL}' --methods {','.join(NAMES)}",
        "space": "cell" if cells else "mobile",
        "budgets": [],
        "counting_rule": "r",
        "seeds": list(range(seeds)),
        "seeds_requested": list(range(asked)),
        "control": "darts",
        "variants": [
            {
                "name": NAMES[arm],
                "method": NAMES[arm].split(":")[0],
                "parts": {},
                "top1": to_plain(mean_std(top1[arm])),
                "gap": to_plain(over_seeds([e["gap"] for e in own])) if own[0]["gap"] else None,
                "skips": to_plain(over_seeds([e["skips"] for e in own])),
                "seconds": to_plain(over_seeds([e["seconds"] for e in own])),
                "agreement": 1.0 if seeds > 1 else None,
                "difference": to_plain(difference(top1[arm], top1[0])) if arm else None,
                "entries": own,
            }
            for arm, own in enumerate(entries)
        ],
        "request": {"data": EVIL, "flops": 2_000_000},
        "data": {
            "source": f"images/{EVIL}",
            "counts": {"train": 1079, "val": 359, "test": 359},
            "classes": ["a", "b"],
            "class_counts": {},
            "image_size": 32,
            "mean": [0.5],
            "std": [0.5],
            "flip": False,
            "fingerprint": "db34a20d1f35",
            "split_rule": "r",
            "pixel_range": None,
            "repeated": {},
        },
        "versions": {"mobilenas": "0.1.0", "torch": "2.13.0+cpu"},
        "machine": {"platform": "Linux-x86_64", "processor": "x86_64", "cuda": None},
    }
    return from_plain(AblationRecord, plain, "")


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def words_of(svg: ElementTree.Element) -> str:
    return " ".join("".join(node.itertext()) for node in svg.iter() if node.tag.endswith("text"))


def test_the_page_runs_nothing_loads_nothing_and_suits_light_and_dark() -> None:
    page = ablation_page(record())
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page
    assert "url(http" not in page
    assert page.count("alert(1)") >= 3
    assert "prefers-color-scheme: dark" in page
    assert INK not in page
    assert "currentColor" in page


def test_arms_control_and_differences_are_said() -> None:
    plain = record()
    page = ablation_page(plain)
    assert "The control is darts." in page
    (row,) = re.findall(r'<tr class="marked">(.*?)</tr>', page)
    assert "<td>darts</td><td>60.23 ± 0.25</td>" in row
    told = sentences(plain.variants, plain.control)
    assert len(told) == 3
    for sentence in told:
        assert f"<p>{sentence}</p>" in page
    assert "not corrected for the number of variants" in page
    assert costs_sentence(plain.variants) == (
        "The trained networks have 1.9M to 1.93M FLOPs and 40k params."
    )
    assert costs_sentence(plain.variants) in page


def test_the_table_has_every_figure() -> None:
    page = ablation_page(record())
    rows = re.findall(r"<tr>(<td>.*?)</tr>", page)
    searched = re.sub(r"</?td>", "|", rows[0]).replace("||", "|").strip("|").split("|")
    assert searched == [
        *(NAMES[1], "61.00 ± 1.73", "63.00", "29.00 ± 0.00", "6.00 ± 1.00", "1.0 ± 1.0"),
        *("1.0 ± 0.0", "1.00", "10 to 14", "1.91M", "40k", "2,001", "900"),
    ]
    drawn = next(row for row in rows if row.startswith("<td>random</td>"))
    assert drawn.count("<td>-</td>") == 2


def test_every_plot_has_a_mark_a_seed_and_a_mean() -> None:
    top1, gap, skips = drawings(ablation_page(record()))
    for svg, arms, groups in ((top1, 4, 1), (gap, 3, 2), (skips, 4, 2)):
        collections = [g for g in svg.iter() if "PathCollection" in g.get("id", "")]
        counts = [sum(node.tag.endswith("use") for node in g.iter()) for g in collections]
        # the legend has marks of its own
        assert counts[: 2 * groups] == [3 * arms] * groups + [arms] * groups
        assert ("random" in words_of(svg)) == (arms == 4)
        assert ":temperature=1:0.1" in words_of(svg)


def test_networks_and_how_to_make_them_stand_there() -> None:
    page = ablation_page(record())
    assert len(re.findall(r"<details><summary>[^<]*, seed \d: [\d.]+ %</summary>", page)) == 12
    assert page.count("&#39;sep_conv_3x3&#39;, 1)") == 12
    for text in ("mobilenas ablate --data", "torch 2.13.0+cpu", "db34a20d1f35", "1,079 train"):
        assert text in page
    assert COUNTING_RULE[1:] in page


def test_alarms_are_listed_by_arm_and_seed() -> None:
    plain = record()
    assert "No search ended with an alarm." in ablation_page(plain)
    alarmed: dict[str, Any] = to_plain(plain)
    alarmed["variants"][2]["entries"][1]["alarms"] = ["skip connections dominate: 7 of 8 & more"]
    page = ablation_page(from_plain(AblationRecord, alarmed, ""))
    assert "No search ended" not in page
    assert f"<td>{NAMES[2]}</td><td>1</td>" in page
    assert "7 of 8 &amp; more" in page


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_claim_nothing_and_an_unfinished_one_says_so(seeds: int) -> None:
    page = ablation_page(record(seeds=seeds, asked=3))
    assert f"{seeds} of 3 seeds are done" in page
    assert page.count("no difference shown") == 3
    assert ": better." not in page
    assert ": worse." not in page
    assert len(drawings(page)) == 3


def test_chains_have_blocks_instead_of_skips() -> None:
    page = ablation_page(record(cells=False))
    assert "blocks left out" in page
    assert "skips, normal cell" not in page
    assert len(drawings(page)) == 3
    assert "{&#34;space&#34;: &#34;mobile&#34;}" in page


def test_one_arm_that_searches_nothing_is_a_page_too() -> None:
    plain = record(arms=4)
    arms = [replace(plain.variants[3], difference=None)]
    top1, skips = drawings(ablation_page(replace(plain, variants=arms, control="random")))
    assert "top-1 on test images" in words_of(top1)
    assert "number in the searched network" in words_of(skips)
