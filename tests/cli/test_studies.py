import json
import sys
from pathlib import Path

import pytest

from remora.cli.main import run_cli
from remora.cli.signals import Terminated
from remora.config.load import dump_yaml
from tests.cli.fake_study import FakePlan, FakeStudy
from tests.prompts import write_data as write_labelled
from tests.prompts import write_model as write_language_model

BASE = ["--model", "minilm", "--data", "some/where/my data.csv"]
ROW_KEYS = {
    "method", "label", "metric", "mean", "low", "high", "seeds", "failed", "adapter_params", "head_params",
    "step_seconds", "peak_bytes", "adapter_bytes", "hyperparameters", "adapter",
}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    fake = FakeStudy(folder=tmp_path)
    monkeypatch.setitem(sys.modules, "remora.study.api", fake.module())
    return fake


def test_compare_builds_the_study_it_was_asked_for(study: FakeStudy, tmp_path: Path) -> None:
    options = ["--seeds", "3", "--margin", "0.5", "--prefer", "size", "--budget", "20m", "--no-full"]
    overrides = ["data.train_limit=100", "protocol.epochs=2"]
    methods = "lora,lora:rank=16,alpha=32,label=big"
    code = run_cli(["compare", *BASE, "--methods", methods, "--out", str(tmp_path / "here"), *options, *overrides])
    assert code == 0
    ((config, out),) = study.ran
    assert out == tmp_path / "here"
    assert (config.kind, config.name) == ("compare", "my-data-minilm")
    assert (config.model.id, config.data.path, config.data.train_limit) == ("minilm", "some/where/my data.csv", 100)
    assert [(entry.id, entry.label, dict(entry.settings)) for entry in config.methods] == [
        ("lora", None, {}),
        ("lora", "big", {"rank": 16, "alpha": 32}),
    ]
    protocol = config.protocol
    assert (protocol.seeds, protocol.margin, protocol.prefer, protocol.epochs) == (3, 0.5, "size", 2)
    assert (protocol.budget_seconds, protocol.full) == (1200.0, False)


def test_defaults_are_left_to_the_study(study: FakeStudy) -> None:
    assert run_cli(["compare", *BASE]) == 0
    ((config, out),) = study.ran
    assert out is None
    assert config.methods == ()
    assert config.protocol.full is True
    assert config.protocol.budget_seconds is None


def test_json_has_the_documented_shape_and_stdout_holds_nothing_else(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["compare", *BASE, "--json"]) == 0
    captured = capsys.readouterr()
    shown = json.loads(captured.out)
    assert set(shown) == {"study", "run_dir", "report", "recommendation", "rows"}
    assert all(set(row) == ROW_KEYS for row in shown["rows"])
    assert len(shown["rows"]) > 8
    assert captured.err == ""


def test_people_see_progress_table_recommendation_report_and_next_command(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["compare", *BASE]) == 0
    captured = capsys.readouterr()
    assert "95 % interval" in captured.out
    assert f"report: {study.folder / 'run' / 'report.html'}" in captured.out
    assert f"next:   remora predict {study.folder / 'run'} --text" in captured.out
    assert "final 1/1: lora done 90.0" in captured.err


def test_some_failed_trials_give_exit_code_5(study: FakeStudy) -> None:
    study.exit_code = 5
    assert run_cli(["compare", *BASE]) == 5


def test_dry_run_plans_and_runs_nothing(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.plan = FakePlan(cuts=("3 seeds in place of 5",))
    assert run_cli(["compare", *BASE, "--dry-run"]) == 0
    assert "to fit the budget: 3 seeds in place of 5" in capsys.readouterr().out
    assert run_cli(["compare", *BASE, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 40
    assert study.ran == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--methods", "lorra"], "lora"),
        (["--methods", "lora:rnk=3"], "rank"),
        (["--budget", "soon"], "--budget"),
        (["protocol.epoch=2"], "epochs"),
        (["nonsense"], "name=value"),
        (["--methods", "full,lora", "--no-full"], "--no-full"),
        (["--seeds", "0"], "--seeds"),
        (["data.train_limit=many", "protocol.clip=-1"], "protocol.clip"),
    ],
)
def test_usage_errors_name_the_fix_and_end_with_2(
    args: list[str], said: str, study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["compare", *BASE, *args]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert study.ran == []


def test_train_takes_one_method_and_no_baseline(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["train", *BASE, "--method", "lora:rank=4"]) == 0
    ((config, _),) = study.ran
    assert (config.kind, config.protocol.seeds, config.protocol.full) == ("train", 1, False)
    assert [entry.id for entry in config.methods] == ["lora"]
    assert run_cli(["train", *BASE, "--method", "lora,head"]) == 2
    assert "one method" in capsys.readouterr().err


def test_run_reads_a_file_and_options_win_over_it(study: FakeStudy, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("model: minilm\ndata: a.csv\nmethods: [lora]\nprotocol: {seeds: 4, epochs: 7}\n")
    assert run_cli(["run", str(path), "--model", "smollm2", "--data", "2024", "--seeds", "2", "protocol.epochs=1"]) == 0
    ((config, _),) = study.ran
    assert (config.model.id, config.data.path) == ("smollm2", "2024")
    assert (config.protocol.seeds, config.protocol.epochs) == (2, 1)


def test_run_knows_recipes(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["run", "recipe:demo", "--dry-run"]) == 0
    assert study.planned[0].data.path == "helpdesk"
    capsys.readouterr()
    for name in ("recipe:no-such", "recipe:../datasets/mrpc", "no.yaml"):
        assert run_cli(["run", name]) == 2
        assert "recipe" in capsys.readouterr().err


def test_demo_compares_at_least_eight_methods_and_says_what_to_type_next(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["demo"]) == 0
    ((config, _),) = study.ran
    assert (config.model.id, config.data.path, config.protocol.seeds) == ("minilm", "helpdesk", 2)
    assert len(config.methods) >= 8
    assert config.protocol.full
    assert "next:   remora compare" in capsys.readouterr().out


def test_resume_goes_on_in_the_same_directory(
    study: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["compare", *BASE, "--methods", "lora"]) == 0
    config, _ = study.ran[0]
    run_dir = tmp_path / "stopped"
    run_dir.mkdir()
    assert run_cli(["resume", str(run_dir)]) == 2
    assert "study.yaml" in capsys.readouterr().err
    (run_dir / "study.yaml").write_text(dump_yaml(config))
    assert run_cli(["resume", str(run_dir)]) == 0
    assert study.ran[1] == (config, run_dir)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_a_stopped_study_says_how_to_go_on(
    error: BaseException, code: int, study: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "a b"

    def stop() -> None:
        run_dir.mkdir()
        (run_dir / "study.yaml").write_text("")
        raise error

    study.during = stop
    assert run_cli(["compare", *BASE, "--out", str(run_dir)]) == code
    assert f"remora resume '{run_dir}'" in capsys.readouterr().err


def test_validate_shows_every_error_with_its_line(
    study: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "model: minilm\ndata: a.csv\nmethods:\n  - lora:\n      rnak: 4\nprotocol:\n  epoch: 2\n  clip: -1\n"
    )
    assert run_cli(["validate", str(path)]) == 2
    captured = capsys.readouterr()
    for said in (f"{path}:7", "epochs", f"{path}:8", "clip", f"{path}:4", "rank"):
        assert said in captured.err
    assert captured.out == ""
    assert study.planned == []


def test_validate_says_ok_with_the_plan(study: FakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("model: minilm\ndata: a.csv\n")
    assert run_cli(["validate", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"{path}: ok" in shown
    assert "40 trials, estimated 5 min 00 s" in shown
    assert run_cli(["validate", str(path), "--json", "protocol.seeds=1"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is True
    assert shown["plan"]["trials_per_pack"] == 8
    assert study.planned[1].protocol.seeds == 1


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  labels: {positive: up, negativ: down}", "6: prompt.labels.negativ: there is no such class"),
        ("  instruction: Judge.\n  labels:\n    positive: up\n    negative: upper", "9: prompt.labels.negative: the"),
        ("  labels: {positive: ' '}", "6: prompt.labels.positive: the label 'positive' (shown as ' ') has no tokens"),
        ("  template: |\n    {document}\n    It is", "6: prompt.template: there is no field {document}"),
        ("  shots: 400", "6: prompt.shots=400: "),
    ],
)
def test_what_shows_only_beside_data_or_model_has_its_line_too(
    prompt: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = write_language_model(tmp_path / "model"), write_labelled(tmp_path / "d.csv")
    study = tmp_path / "study.yaml"
    lines = ["name: moods", "kind: compare", f"model: {model}", f"data: {{path: {data}, task: prompt-classification}}"]
    study.write_text("\n".join([*lines, "prompt:", prompt, ""]))
    for command in ("validate", "run"):
        assert run_cli([command, str(study)]) == 2
        assert f"error: {study}:{message}" in capsys.readouterr().err
    if "shots" in prompt:
        assert run_cli(["run", str(study), "prompt.shots=300"]) == 2
        assert "error: prompt.shots=300: " in capsys.readouterr().err  # it is what was typed
