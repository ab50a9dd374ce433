import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.report.ablation_table import parts_of
from mobilenas.search.methods import METHODS
from mobilenas.search.parts import PARTS
from mobilenas.search.variants import parse_variant, parse_variants


def test_arms_are_read_with_their_parts() -> None:
    text = (
        "darts, pc-darts:sampler=attention:channel_fraction=1/2,random,"
        "da2s:entropy=0.2:zero_op=yes:warmup=3"
    )
    variants = parse_variants(text)
    assert [(variant.method, variant.parts) for variant in variants] == [
        ("darts", {}),
        ("pc-darts", {"sampler": "attention", "channel_fraction": "1/2"}),
        (None, {}),
        ("da2s", {"entropy": 0.2, "zero_op": True, "warmup": 3}),
    ]
    assert variants[1].name == "pc-darts:sampler=attention:channel_fraction=1/2"
    assert parts_of(variants[1].name) == ["pc-darts", ":sampler=attention", ":channel_fraction=1/2"]


def test_a_value_may_have_a_colon_or_a_comma() -> None:
    text = "cpm:temperature=1:0.1:edge-weights=none,da2s:entropy-terms=operations,edges,random"
    first, second, third = parse_variants(text)
    assert first.parts == {"temperature": "1:0.1", "edge_weights": "none"}
    assert parts_of(first.name) == ["cpm", ":temperature=1:0.1", ":edge_weights=none"]
    assert second.parts == {"entropy_terms": "operations,edges"}
    assert third.method is None
    for variant in (first, second, third):
        assert parse_variant(variant.name) == variant


def test_parts_are_numbers_yes_or_no_or_text() -> None:
    whole, real, yes = ("order", "warmup"), ("entropy", "strength"), ("zero_op", "prior")
    values: dict[str, tuple[str, object]] = dict.fromkeys(PARTS, ("x", "x"))
    values |= dict.fromkeys(whole, ("2", 2)) | dict.fromkeys(real, ("0.5", 0.5))
    values |= dict.fromkeys(yes, ("no", False))
    for part, (text, value) in values.items():
        read = parse_variant(f"darts:{part}={text}").parts[part]
        assert read == value and type(read) is type(value), part


def test_file_names_are_plain_and_differ() -> None:
    text = (
        "cpm:temperature=1:0.1,cpm:entropy=0.1,cpm:channel_fraction=1/2,cpm,cpm:entropy_terms=edges"
    )
    names = [variant.file_name for variant in parse_variants(text)]
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
        parse_variants(text)
