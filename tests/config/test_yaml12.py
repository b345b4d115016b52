"""YAML 1.2 scalars, repeated names, tags and bombs; values survive being written and read."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from remora.config.tree import Tree, apply_overrides, parse_tree
from remora.config.yaml12 import YamlError, parse_text, parse_value, to_yaml
from remora.errors import ConfigError

SCALARS: list[tuple[str, object]] = [
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("Off", "Off"),
    ("y", "y"),
    ("true", True),
    ("FALSE", False),
    ("tRue", "tRue"),
    ("null", None),
    ("~", None),
    ("nULL", "nULL"),
    ("7", 7),
    ("-7", -7),
    ("+7", 7),
    ("007", 7),
    ("0o17", 15),
    ("0x1F", 31),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("12:30:45", "12:30:45"),
    ("190:20", "190:20"),
    ("2024-01-01", "2024-01-01"),
    ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
    ("1e-4", 1e-4),
    ("1E5", 1e5),
    ("1.", 1.0),
    (".5", 0.5),
    ("-1.5e+3", -1500.0),
    ("1e", "1e"),
    ("1.2.3", "1.2.3"),
    (".inf", math.inf),
    ("-.Inf", -math.inf),
    ("inf", "inf"),
    ("<<", "<<"),
    ("=", "="),
    ("log(1e-5,1e-2)", "log(1e-5,1e-2)"),
    ("../shared/data", "../shared/data"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars(text: str, value: object) -> None:
    for found in (parse_text(f"x: {text}")[0]["x"], parse_value(text), parse_value(f" {text} ")):  # type: ignore[index]
        assert found == value
        assert type(found) is type(value)


def test_nan_and_nothing() -> None:
    assert math.isnan(parse_value(".nan"))  # type: ignore[arg-type]
    assert parse_value("") is None
    assert parse_text("") == (None, {})
    assert parse_text("a:\nb: ''\n")[0] == {"a": None, "b": ""}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[4, 8, 16]", [4, 8, 16]),
        ("[a,b.c]", ["a", "b.c"]),
        ("{a: 1e-3}", {"a": 1e-3}),
        ('"007"', "007"),
        ("'it''s'", "it's"),
        ("a # b: c", "a # b: c"),
        ("- x", "- x"),
        ("*x", "*x"),
    ],
)
def test_values_of_the_command_line(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["[1, 2", "{a: 1", '"open', "[1] 2", "9" * 5000])
def test_values_that_cannot_be_read(text: str) -> None:
    with pytest.raises(YamlError):
        parse_value(text)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is set twice, first on line 1"),
        ("a:\n  b: 1\n  b: 2\n", 3, "'b' is set twice, first on line 2"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: !mine x\n", 1, "tag !mine is not allowed"),
        ("a: 1\nb: !!int x\n", 2, "invalid literal"),
        ("[a, b]: 1\n", 1, "a name must be a word"),
        ("a: 1\n--- \nb: 2\n", 2, "not valid YAML"),
        ("a: &x [1, *x]\n", 1, "100 levels"),
        ("a: *nowhere\n", 1, "not valid YAML"),
        ("a: \0\n", 0, "not valid YAML"),
        ("a: " + "[" * 3000, 0, "not valid YAML"),
    ],
)
def test_broken_yaml_names_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_text(text)
    assert caught.value.problems[0][0] == line
    assert words in str(caught.value)


def test_many_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tree("a: 1\na: 2\nb: !x 1\nc:\n  d: 1\n  d: 2\n", "study.yaml")
    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == [
        "study.yaml:2",
        "study.yaml:3",
        "study.yaml:6",
    ]


def test_an_alias_bomb_is_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(YamlError, match="100000 values"):
        parse_text("\n".join(levels))


@pytest.mark.parametrize("text", ["- a\n", "just a word", "7"])
def test_the_top_level_is_a_mapping(text: str) -> None:
    with pytest.raises(ConfigError, match="expected settings"):
        parse_tree(text, "study.yaml")


def test_places() -> None:
    tree = parse_tree("a:\n  b: 1\n  c:\n  - x\n  -\n    d: 2\n", "s.yaml")
    assert [tree.place(path) for path in (("a",), ("a", "b"), ("a", "c", 1, "d"), ("a", "zzz"), ("q",))] == [
        "s.yaml:1",
        "s.yaml:2",
        "s.yaml:6",
        "s.yaml:1",
        "s.yaml:1",
    ]


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz01", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(values=st.dictionaries(st.text("abcxyz_", min_size=1, max_size=6), plain, max_size=5))
def test_what_is_written_reads_back_equal(values: dict[str, object]) -> None:
    assert (parse_text(to_yaml(values))[0] or {}) == values


@pytest.mark.parametrize("text", [text for text, _ in SCALARS])
def test_written_text_is_text_to_every_yaml_reader(text: str) -> None:
    written = to_yaml({"x": text})
    assert parse_text(written)[0] == {"x": text}
    assert yaml.safe_load(written) == {"x": text}


class TestOverrides:
    def test_values_are_set_and_the_original_is_not(self) -> None:
        tree = parse_tree("data:\n  path: x\nmethods:\n- lora\n", "s.yaml")
        changed = apply_overrides(tree, ["data.train_limit=1000", "protocol.lr=1e-4", "name=yes", "methods.0=dora"])
        assert changed.values == {
            "data": {"path": "x", "train_limit": 1000},
            "methods": ["dora"],
            "protocol": {"lr": 1e-4},
            "name": "yes",
        }
        assert tree.values == {"data": {"path": "x"}, "methods": ["lora"]}
        assert changed.place(("data", "train_limit")) == "command line, data.train_limit=1000"
        assert changed.place(("data", "path")) == "s.yaml:2"

    def test_what_an_override_replaces_has_the_overrides_place(self) -> None:
        changed = apply_overrides(parse_tree("data:\n  path: x\n", "s.yaml"), ["data={path: y}"])
        assert changed.values == {"data": {"path": "y"}}
        assert changed.place(("data", "path")) == "command line, data={path: y}"

    def test_later_ones_win_and_empty_means_nothing(self) -> None:
        assert apply_overrides({}, ["a.b=1", "a.b=2", "a.c="]).values == {"a": {"b": 2, "c": None}}

    def test_a_section_written_as_one_word(self) -> None:
        tree = apply_overrides({"model": "minilm", "data": "x"}, ["model.revision=main", "data.text=[a,b]"])
        assert tree.values == {"model": {"id": "minilm", "revision": "main"}, "data": {"path": "x", "text": ["a", "b"]}}

    def test_only_the_first_sign_cuts(self) -> None:
        assert apply_overrides({}, ["a=b=c"]).values == {"a": "b=c"}

    def test_all_mistakes_at_once(self) -> None:
        with pytest.raises(ConfigError) as caught:
            apply_overrides({"a": 1, "l": [1]}, ["nothing", "=x", "a..b=1", "a.b=1", "l.5=1", "x=[1"])
        assert [line.split(":")[0] for line in caught.value.message.splitlines()] == [
            "'nothing'",
            "'=x'",
            "'a..b=1'",
            "'a.b=1'",
            "'l.5=1'",
            "'x=[1'",
        ]

    @given(
        path=st.lists(st.text("abc_-", min_size=1, max_size=4), min_size=1, max_size=4),
        value=st.integers() | st.booleans() | st.floats(allow_nan=False) | st.text("ab: #", max_size=5).map(str.strip),
    )
    def test_what_was_set_is_there(self, path: list[str], value: object) -> None:
        import json

        found: object = apply_overrides({}, [f"{'.'.join(path)}={json.dumps(value)}"]).values
        if value in (math.inf, -math.inf):
            return  # JSON has no infinity
        for part in path:
            assert isinstance(found, dict)
            found = found[part]
        assert found == value
        assert type(found) is type(value)


def test_a_tree_without_places() -> None:
    assert Tree(values={}).place(("a",)) == ""
