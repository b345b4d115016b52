"""A study from file, dict and overrides: defaults, all errors at once with their lines, round trip, fingerprint."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from remora.config.load import apply_overrides, build_study, dump_yaml, fingerprint, load_yaml, read_study
from remora.config.schema import DataConfig, MethodEntry, ProtocolConfig, StudyConfig
from remora.errors import ConfigError

MINIMAL: dict[str, object] = {"model": "minilm", "data": "helpdesk"}

WRONG = """\
name: my study
model: minilm
data:
  path: ../d
  train_limt: 10
  text: []
protocol:
  epochs: 0
  lr: yes
  mode: fiar
  clip: .nan
  seeds: 2.5
  full: "no"
epochs: 4
methods:
- full
- lora: {rank: 16}
- {id: lora, lable: q}
- lora:rank=4
- loro
"""


def messages(tree: object, known: tuple[str, ...] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_study(tree, "here", known)  # type: ignore[arg-type]
    return caught.value.message.splitlines()


def test_defaults() -> None:
    study = build_study(MINIMAL)
    assert (study.model.id, study.data.path, study.kind, study.methods) == ("minilm", "helpdesk", "compare", ())
    assert study.protocol == ProtocolConfig()
    assert (study.protocol.seeds, study.protocol.tuning_trials, study.protocol.warmup) == (5, 4, 0.06)
    assert study.engine.pass_tokens == 2400


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(WRONG)
    tree = apply_overrides(load_yaml(path), ["data.label=5", "protocol.sceds=3"])
    found = [line.removeprefix(str(path)) for line in messages(tree, ("full", "lora"))]
    assert found == [
        ":1: name: may hold only letters, digits, dots, hyphens and underscores; found 'my study'",
        ":5: data.train_limt: there is no such setting; did you mean 'train_limit'?",
        ":6: data.text: must not be empty; found []",
        ":8: protocol.epochs: must be at least 1; found 0",
        ":9: protocol.lr: must be a number; found 'yes'",
        ":10: protocol.mode: must be one of fair, published; found 'fiar'; did you mean 'fair'?",
        ":11: protocol.clip: must be a finite number; found nan",
        ":12: protocol.seeds: must be a whole number; found 2.5",
        ":13: protocol.full: must be true or false; found 'no'",
        ":14: epochs: there is no such setting; did you mean 'protocol.epochs'?",
        ":18: methods.2.lable: there is no such setting; did you mean 'label'?",
        ":19: methods.3: write 'lora:rank=4' as `- lora: {setting: value}`",
        ":20: methods.4: unknown method 'loro'; did you mean 'lora'?",
        'command line, data.label=5: data.label: must be text; found 5; write it in quotes: "5"',
        "command line, protocol.sceds=3: protocol.sceds: there is no such setting; did you mean 'seeds'?",
    ]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"data": "x"}, "here: model: must be set"),
        ({"model": {}, "data": "x"}, "here: model.id: must be set"),
        ({"model": "", "data": "x"}, "here: model.id: must not be empty; found ''"),
        ({**MINIMAL, "data": ["x"]}, "here: data: must be settings as `name: value`; found ['x']"),
        (
            {**MINIMAL, "kind": "campare"},
            "here: kind: must be one of compare, train, sweep; found 'campare'; did you mean 'compare'?",
        ),
        ({**MINIMAL, "methods": 7}, "here: methods: must be a list; found 7"),
        ({**MINIMAL, "methods": [7]}, "here: methods.0: must be settings as `name: value`; found 7"),
        ({**MINIMAL, "methods": [{"lora": 7}]}, "here: methods.0.settings: must be settings as `name: value`; found 7"),
        (
            {**MINIMAL, "methods": ["lora", {"lora": None}]},
            "here: methods: two methods have the label 'lora'; give one of them another `label`",
        ),
        ({**MINIMAL, "protocol": {"warmup": 1}}, "here: protocol.warmup: must be less than 1.0; found 1"),
        ({**MINIMAL, "protocol": {"lr": 0}}, "here: protocol.lr: must be greater than 0.0; found 0"),
        ({**MINIMAL, "protocol": {"seeds": True}}, "here: protocol.seeds: must be a whole number; found true"),
        (
            {**MINIMAL, "zzz": 1},
            "here: zzz: there is no such setting; there are name, kind, model, data, methods, protocol, engine, prompt,"
            " generation",
        ),
    ],
)
def test_single_mistakes(tree: object, message: str) -> None:
    assert messages(tree) == [message]


def test_forms_of_methods() -> None:
    entries = [
        "full",
        {"lora": {"rank": 16, "targets": ["attention.q"]}},
        {"bitfit": None},
        {"id": "lora", "label": "LoRA small", "settings": {"rank": 1}},
    ]
    study = build_study({**MINIMAL, "methods": entries}, known_methods=("full", "lora", "bitfit"))
    assert [entry.row_label for entry in study.methods] == [
        "full",
        "lora rank=16 targets=[attention.q]",
        "bitfit",
        "LoRA small",
    ]
    assert study.methods[1].settings == {"rank": 16, "targets": ["attention.q"]}
    assert build_study({**MINIMAL, "methods": "full, lora"}).methods == (MethodEntry(id="full"), MethodEntry(id="lora"))


def test_unknown_methods_are_told_beside_other_mistakes() -> None:
    found = messages({**MINIMAL, "methods": ["dorra"], "protocol": {"epochs": 0}}, ("dora", "lora"))
    assert any("unknown method 'dorra'; did you mean 'dora'?" in line for line in found)
    assert any("protocol.epochs" in line for line in found)


def test_settings_cannot_be_changed() -> None:
    study = build_study(MINIMAL)
    with pytest.raises(ValidationError):
        study.name = "other"  # type: ignore[misc]


def test_one_text_column_or_two() -> None:
    assert DataConfig.model_validate({"path": "x", "text": "a"}).text == ("a",)
    assert DataConfig.model_validate({"path": "x", "text": ["a", "b"]}).text == ("a", "b")


FULL: dict[str, object] = {
    "name": "all-set",
    "model": {"id": "owner/name", "revision": "1e5", "max_length": 64},
    "data": {"path": "yes", "text": ["007", "on"], "label": "null", "split_seed": 3, "metric": "f1/no"},
    "methods": ["full", {"lora": {"rank": 4, "lr": 1e-4, "note": "1e-4", "list": [1, "2"]}}],
    "protocol": {"lr": 3e-5, "budget_seconds": 60, "full": False},
    "engine": {"lanes": 4},
}


@pytest.mark.parametrize("values", [MINIMAL, FULL])
def test_written_and_read_back(tmp_path: Path, values: dict[str, object]) -> None:
    study = build_study(values)
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(study))
    assert read_study(path) == study
    assert fingerprint(read_study(path)) == fingerprint(study)


def test_the_fingerprint_follows_the_settings_only() -> None:
    plain = fingerprint(build_study(MINIMAL))
    assert plain == fingerprint(build_study({"data": {"path": "helpdesk"}, "model": {"id": "minilm"}}))
    assert plain == fingerprint(build_study({**MINIMAL, "protocol": {"seeds": 5, "clip": 1}}))
    assert plain == fingerprint(build_study({**MINIMAL, "protocol": {"stop": "none"}}))
    for text in (
        "protocol.seeds=4",
        "protocol.stop=halving",
        "protocol.lr=1e-4",
        "data.split_seed=1",
        "data.local=x",
        "name=x",
    ):
        changed = build_study(apply_overrides(MINIMAL, [text]))
        assert fingerprint(changed) != plain
    assert len(plain) == 64


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    """It names run directories: change it deliberately."""
    assert fingerprint(build_study(MINIMAL)).startswith(FINGERPRINT)


@given(
    seeds=st.integers(1, 50),
    epochs=st.integers(1, 100),
    lr=st.floats(1e-9, 10),
    name=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,9}", fullmatch=True),
)
def test_any_study_reads_back_equal(seeds: int, epochs: int, lr: float, name: str) -> None:
    from remora.config.tree import parse_tree

    study = build_study({**MINIMAL, "name": name, "protocol": {"seeds": seeds, "epochs": epochs, "lr": lr}})
    again = build_study(parse_tree(dump_yaml(study), "x"))
    assert again == study
    assert isinstance(again, StudyConfig)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a: \xff\n", "not UTF-8"), (b"a: [\n", "not valid YAML"), (b"- a\n", "expected settings")],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load_yaml(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml")
    path.write_bytes(b"\xef\xbb\xbfmodel: minilm\r\ndata: x\r\n")
    assert read_study(path).data.path == "x"


FINGERPRINT = "201930c4"
