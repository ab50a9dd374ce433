from mobilenas.baselines.paired import difference
from mobilenas.report.ablation_table import sentences


def test_sentences_name_control_seeds_and_p() -> None:
    control = [70.0, 71.3, 70.0, 72.9]
    arms = [{"name": "darts", "difference": None}]
    for count in (1, 2, 4):
        own = [71.0, 72.5, 70.9, 74.0][:count]
        arms.append({"name": f"n{count}", "difference": difference(own, control[:count])})
    one, two, four = sentences({"control": "darts", "arms": arms})
    assert one == "n1 against darts: +1.00 points, one seed: no difference shown."
    assert two.endswith("over 2 seeds (a test needs 3): no difference shown.")
    assert "n4 against darts: +1.05 ± 0.13 points over 4 seeds (p = 0.0" in four
    assert four.endswith("): better.")
