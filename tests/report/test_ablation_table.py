from mobilenas.baselines.paired import difference
from mobilenas.baselines.records import Difference, MeanStd
from mobilenas.report.ablation_table import sentences
from mobilenas.report.records import VariantRecord


def test_sentences_name_control_seeds_and_p() -> None:
    control = [70.0, 71.3, 70.0, 72.9]
    figures = MeanStd(mean=1.0, sd=None)

    def arm(name: str, found: Difference | None) -> VariantRecord:
        return VariantRecord(
            name=name,
            method="darts",
            parts={},
            top1=figures,
            gap=None,
            skips={"blocks": figures},
            seconds={"search": figures, "train": figures},
            agreement=None,
            difference=found,
            entries=[],
        )

    arms = [arm("darts", None)]
    for count in (1, 2, 4):
        own = [71.0, 72.5, 70.9, 74.0][:count]
        arms.append(arm(f"n{count}", difference(own, control[:count])))
    one, two, four = sentences(arms, "darts")
    assert one == "n1 against darts: +1.00 points, one seed: no difference shown."
    assert two.endswith("over 2 seeds (a test needs 3): no difference shown.")
    assert "n4 against darts: +1.05 ± 0.13 points over 4 seeds (p = 0.0" in four
    assert four.endswith("): better.")
