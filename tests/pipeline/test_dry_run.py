from dataclasses import replace
from pathlib import Path

import pytest

from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.latency.profile import Profile, write_profile
from mobilenas.pipeline.dry_run import Outlook, dry_run
from mobilenas.pipeline.request import Request
from mobilenas.search.space import SIDES, space_for
from mobilenas.spaces.mobile.table import CostTable


def test_a_budget_over_the_largest_network_is_told_and_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mobilenas.pipeline.dry_run.estimate", lambda _: {"search": 1.0})
    found = dry_run(Request(data="digits", flops=50 * 10**9), NullReporter()).to_dict()
    assert found["flops"]["largest"] < 50 * 10**9
    (remark,) = found["remarks"]
    assert remark.startswith("flops <= 50G")
    assert found["seconds"] == {}
    both = dry_run(
        Request(data="digits", flops=50 * 10**9, params=40_000), NullReporter()
    ).to_dict()
    assert len(both["remarks"]) == 1 and both["seconds"]


def test_a_dry_runs_ranges_bracket_the_budgets() -> None:
    rows = dry_run(Request(data="digits", flops=300_000, params=40_000), NullReporter()).to_dict()
    assert rows.keys() == {"flops", "params", "memory", "remarks", "seconds"}
    assert rows["remarks"] == []
    assert all(seconds > 0 for seconds in rows["seconds"].values())
    for cost, limit in (("flops", 300_000), ("params", 40_000)):
        assert rows[cost]["smallest"] <= rows[cost]["budget"] == limit <= rows[cost]["largest"]
    assert rows["memory"].keys() == {"smallest", "largest"}
    counts = [end for cost in ("flops", "params", "memory") for end in rows[cost].values()]
    assert {type(count) for count in counts} == {int}


def test_a_dry_run_without_a_budget_says_what_any_could_ask_for() -> None:
    with pytest.raises(BudgetError, match=r"no budget.*search --data DATA --dry-run"):
        Request(data="digits")
    found = dry_run(Outlook(data="digits", image_size=32, squeeze="off"), NullReporter()).to_dict()
    assert found["image_size"] == 32 and found["seconds"] == {}
    assert all(option in found["remarks"][0] for option in ("--flops", "--params", "--memory"))
    own = {cost: found[cost] for cost in ("flops", "params", "memory")}
    assert {"image_size": 32} | own in found["sides"]
    smallest = [side["flops"]["smallest"] for side in found["sides"]]
    assert smallest == sorted(smallest) and len(smallest) == len(SIDES)
    # what it says is just reachable is, and a little less is not
    least = own["flops"]["smallest"]
    options = {"image_size": 32, "classes": 10, "squeeze": "off"}
    tightest = space_for([Budget(cost="flops", limit=least)], **options)
    assert CostTable(tightest, "flops").minimum() == least
    with pytest.raises(BudgetError, match="cannot be met"):
        space_for([Budget(cost="flops", limit=least - 1)], **options)
    for limit in (10**6, 10**9):
        space = space_for([Budget(cost="flops", limit=limit)], **options)
        for cost, ends in own.items():
            table = CostTable(space, cost)
            assert ends["smallest"] <= table.minimum() <= table.exact(space.largest())
            assert table.exact(space.largest()) <= ends["largest"]


def test_a_dry_run_without_a_budget_checks_all_else() -> None:
    with pytest.raises(MobileNASError, match="channel_fraction '1/3'"):
        dry_run(Outlook(channel_fraction="1/3"), NullReporter())
    with pytest.raises(MobileNASError, match="a latency budget needs the profile"):
        Outlook(latency=8.0)


def test_a_profile_whose_predictions_are_poor_is_told(
    made_up_profile: Profile, tmp_path: Path
) -> None:
    poor = replace(made_up_profile.calibration["fp32"], mape_percent=12.5, kendall_tau=0.5)
    path, told = tmp_path / "poor.json", list[str]()
    write_profile(replace(made_up_profile, calibration={"fp32": poor}), path)

    class Hears(NullReporter):
        def info(self, message: str) -> None:
            told.append(message)

    asked = Request(data="digits", latency=1e4, profile=str(path))
    assert dry_run(asked, Hears()).costs["latency"]["budget"] == 1e4
    poor_words = [line for line in told if line.startswith("profile shelf-1, fp32: ")]
    assert len(poor_words) == 2 and "12.5 %" in poor_words[0] and "0.50" in poor_words[1]


def test_int8_needs_a_profile_that_has_it(made_up_profile: Profile, tmp_path: Path) -> None:
    write_profile(made_up_profile, tmp_path / "one.json")
    asked = Request(latency=1e4, profile=str(tmp_path / "one.json"), precision="int8")
    with pytest.raises(MobileNASError, match="profile shelf-1 has no int8 times; it has fp32"):
        dry_run(asked, NullReporter())


def test_what_a_target_leaves_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenas.pipeline.dry_run.estimate", lambda _: {"search": 1.0})

    class Listener(NullReporter):
        said: list[str] = []  # noqa: RUF012  # one listener

        def info(self, message: str) -> None:
            self.said.append(message)

    dry_run(Request(flops=300_000, targets=("nnapi",)), Listener())
    assert "nnapi has no HardSigmoid: networks have no hard-swish and no squeeze-excite" in (
        Listener.said
    )
