import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.report.ablation_table import parts_of
from mobilenas.search.arms import parse_arm, parse_arms
from mobilenas.search.methods import METHODS
from mobilenas.search.parts import PARTS


def test_arms_are_read_with_their_parts() -> None:
    text = (
        "darts, pc-darts:sampler=attention:channel_fraction=1/2,random,"
        "da2s:entropy=0.2:zero_op=yes:warmup=3"
    )
    arms = parse_arms(text)
    assert [(arm.method, arm.parts) for arm in arms] == [
        ("darts", {}),
        ("pc-darts", {"sampler": "attention", "channel_fraction": "1/2"}),
        (None, {}),
        ("da2s", {"entropy": 0.2, "zero_op": True, "warmup": 3}),
    ]
    assert arms[1].name == "pc-darts:sampler=attention:channel_fraction=1/2"
    assert parts_of(arms[1].name) == ["pc-darts", ":sampler=attention", ":channel_fraction=1/2"]


def test_a_value_may_have_a_colon_or_a_comma() -> None:
    text = "cpm:temperature=1:0.1:edge-weights=none,da2s:entropy-terms=operations,edges,random"
    first, second, third = parse_arms(text)
    assert first.parts == {"temperature": "1:0.1", "edge_weights": "none"}
    assert parts_of(first.name) == ["cpm", ":temperature=1:0.1", ":edge_weights=none"]
    assert second.parts == {"entropy_terms": "operations,edges"}
    assert third.method is None
    for arm in (first, second, third):
        assert parse_arm(arm.name) == arm


def test_parts_are_numbers_yes_or_no_or_text() -> None:
    whole, real, yes = ("order", "warmup"), ("entropy", "strength"), ("zero_op", "prior")
    values: dict[str, tuple[str, object]] = dict.fromkeys(PARTS, ("x", "x"))
    values |= dict.fromkeys(whole, ("2", 2)) | dict.fromkeys(real, ("0.5", 0.5))
    values |= dict.fromkeys(yes, ("no", False))
    for part, (text, value) in values.items():
        read = parse_arm(f"darts:{part}={text}").parts[part]
        assert read == value and type(read) is type(value), part


def test_file_names_are_plain_and_differ() -> None:
    text = (
        "cpm:temperature=1:0.1,cpm:entropy=0.1,cpm:channel_fraction=1/2,cpm,cpm:entropy_terms=edges"
    )
    names = [arm.file_name for arm in parse_arms(text)]
    assert len(set(names)) == len(names)
    assert not set("".join(names)) & set(':/\\ ,*?"<>|')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drats", f"'drats' is not a variant; .*{', '.join(METHODS)}, random"),
        ("darts,,cpm", "'' is not a variant"),
        ("darts:sampler", "'darts:sampler' is not a variant"),
        ("darts:speed=9", f"'speed' is not a part; it must be one of {', '.join(PARTS)}"),
        ("darts:order=two", "order is 'two'; it must be a whole number"),
        ("da2s:entropy=much", "entropy is 'much'; it must be a number"),
        ("darts:zero_op=perhaps", "zero_op is 'perhaps'; it must be yes or no"),
        (
            "cpm:channel_fraction=",
            "channel_fraction is ''; it must be a value of",
        ),
        ("cpm:channel_fraction=1/2:channel_fraction=1/4", "channel_fraction is given twice"),
        ("random:channel_fraction=1/2", "random has no parts"),
        ("darts,cpm,darts", "a variant is given twice: darts and darts"),
        ("da2s:entropy=.2,da2s:entropy=0.20", "a variant is given twice"),
    ],
)
def test_wrong_arms_are_named(text: str, message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        parse_arms(text)
