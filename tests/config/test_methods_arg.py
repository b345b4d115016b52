"""Methods on one line: settings run from the colon to the next method id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.config.methods_arg import parse_methods
from remora.config.schema import MethodEntry
from remora.errors import ConfigError

KNOWN = ("full", "lora", "dora", "lora-plus", "ia3")


def test_the_line_of_the_design() -> None:
    assert parse_methods("full,lora,lora:rank=16,alpha=32,dora", KNOWN) == (
        MethodEntry(id="full"),
        MethodEntry(id="lora"),
        MethodEntry(id="lora", settings={"rank": 16, "alpha": 32}),
        MethodEntry(id="dora"),
    )


def test_all_stands_for_every_method_beside_further_rows() -> None:
    entries = parse_methods("all,lora:rank=16", KNOWN)
    assert [entry.id for entry in entries] == [*KNOWN, "lora"]
    assert entries[-1].settings == {"rank": 16}
    assert [entry.id for entry in parse_methods("all", KNOWN, ["lora", "ia3"])] == ["lora", "ia3"]
    with pytest.raises(ConfigError, match="all"):
        parse_methods("all:rank=16", KNOWN)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("lora:lr=1e-4", {"lr": 1e-4}),
        ("lora: rank = 8 , bias = none", {"rank": 8, "bias": "none"}),
        ("lora:targets=[attention.q,attention.v],rank=2", {"targets": ["attention.q", "attention.v"], "rank": 2}),
        ("lora:name='a, b: c'", {"name": "a, b: c"}),
        ("lora:lr=log(1e-5,1e-2)", {"lr": "log(1e-5,1e-2)"}),
        ("lora:note=it's", {"note": "it's"}),
        ("lora:a={x: [1,2]}", {"a": {"x": [1, 2]}}),
        ("lora:flag=yes,other=true", {"flag": "yes", "other": True}),
        ("lora:path=a:b", {"path": "a:b"}),
    ],
)
def test_settings(text: str, settings: dict[str, object]) -> None:
    (entry,) = parse_methods(text, KNOWN)
    assert entry == MethodEntry(id="lora", settings=settings)


def test_a_label_names_the_row() -> None:
    (first, second) = parse_methods("lora:label=LoRA tiny,rank=1,lora-plus", KNOWN)
    assert (first.label, first.settings, second.id) == ("LoRA tiny", {"rank": 1}, "lora-plus")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("loar", ["unknown method 'loar'; did you mean 'lora'?"]),
        ("zzz,xxx", ["unknown method 'zzz'", "unknown method 'xxx'"]),
        ("lora,rank=3", ["the setting 'rank=3' belongs to no method; write lora:rank=3"]),
        ("rank=3", ["the setting 'rank=3' belongs to no method; name the method first"]),
        ("", ["a method's name is missing"]),
        ("lora,,dora", ["a method's name is missing"]),
        ("lora,", ["a method's name is missing"]),
        (":rank=3", ["a method's name is missing before ':rank=3'"]),
        ("lora:", ["lora: expected name=value after the colon, found ''"]),
        ("lora:rank", ["lora: expected name=value after the colon, found 'rank'"]),
        ("lora:rank=", ["lora: rank has no value"]),
        ("lora:rank=1,rank=2", ["lora: rank is given twice"]),
        ("lora:targets=attention.q,attention.v", ["unknown method 'attention.v'; write a list as name=[a,b]"]),
        ("lora:a=[1,2", ["] is missing at the end of 'lora:a=[1,2'", "lora: a=[1,2: not valid YAML"]),
        ("loar:rank=1,dorra", ["unknown method 'loar'; did you mean 'lora'?", "unknown method 'dorra'"]),
    ],
)
def test_mistakes_are_told_together(text: str, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_methods(text, KNOWN)
    found = caught.value.message.splitlines()
    assert len(found) == len(messages)
    assert all(line.startswith(f"--methods: {message}") for line, message in zip(found, messages, strict=True))


values = (
    st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["a", "x y"])
)
names = st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(lambda name: name != "label")


@given(
    rows=st.lists(st.tuples(st.sampled_from(KNOWN), st.dictionaries(names, values, max_size=3)), min_size=1, max_size=4)
)
def test_what_is_written_is_read(rows: list[tuple[str, dict[str, object]]]) -> None:
    import json

    pieces = [
        name + (":" if settings else "") + ",".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        for name, settings in rows
    ]
    found = parse_methods(",".join(pieces), KNOWN)
    assert [(entry.id, entry.settings) for entry in found] == rows
