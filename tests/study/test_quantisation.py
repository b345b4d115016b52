"""A study with quantised bases: which row runs on which, in which pack, and what is refused before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from remora.cli.main import run_cli
from remora.errors import ConfigError
from remora.models.frozen_linear import NF4Linear
from remora.results.schema import Costs, Study
from remora.results.store import COSTS_FILE, STUDY_FILE, read_record, read_result
from remora.study.context import StudyContext, open_context
from remora.study.packs import Packing, plan_packs
from remora.study.probe import run_probe
from remora.study.rows import study_rows
from remora.study.trials import PlannedTrial, TrialMaker
from tests.commands import remora
from tests.study.conftest import Configure

ONE = {"seeds": 1, "lr": 1e-3, "epochs": 1}


def planned(context: StudyContext) -> dict[str, PlannedTrial]:
    """The first final trial of each row that trains, by label."""
    rows = study_rows(context.config, context.base)
    return {row.label: TrialMaker(context).final(row, 1e-3)[0] for row in rows if row.method is not None}


def test_a_dense_study_has_a_quantised_base_beside_it_for_rows_that_need_one(configure: Configure) -> None:
    context = open_context(configure(methods=["lora", "qlora"], protocol=ONE))
    assert (context.base.quantization, context.base_as("none")) == ("none", context.base)
    beside = context.base_as("nf4")
    assert beside is context.base_as("nf4")
    assert beside.quantization == "nf4"
    assert beside.sha256 == context.base.sha256
    trials = planned(context)
    assert {label: trial.quantization for label, trial in trials.items()} == {
        "LoRA": "none",
        "QLoRA": "nf4",
        "full fine-tuning": "none",
        "head only": "none",
    }
    assert PlannedTrial.from_json(json.loads(json.dumps(trials["QLoRA"].to_json()))) == trials["QLoRA"]


def test_a_quantised_study_runs_every_row_on_one_base(configure: Configure) -> None:
    config = configure(methods=["lora", "qlora"], protocol={**ONE, "full": False})
    config = config.model_copy(update={"model": config.model.model_copy(update={"quantization": "nf4"})})
    context = open_context(config)
    assert isinstance(context.base.model.get_submodule("encoder.layer.0.output.dense"), NF4Linear)
    trials = planned(context)
    assert {trial.quantization for trial in trials.values()} == {"nf4"}
    dense = planned(open_context(configure(methods=["lora", "qlora"], protocol=ONE)))
    assert trials["QLoRA"].spec.id == dense["QLoRA"].spec.id, "it is the same trial"
    assert trials["LoRA"].spec.id != dense["LoRA"].spec.id


def test_packs_hold_trials_of_one_base(configure: Configure) -> None:
    context = open_context(configure(methods=["lora", "qlora", "bitfit", "lora-fa"], protocol={**ONE, "seeds": 2}))
    maker = TrialMaker(context)
    rows = [row for row in study_rows(context.config, context.base) if row.method is not None]
    trials = [trial for row in rows for trial in maker.final(row, 1e-3)]
    packs = plan_packs(trials, Packing(slots=4))
    assert sorted(trial.spec.id for pack in packs for trial in pack.trials) == sorted(t.spec.id for t in trials)
    held = [{trial.quantization for trial in pack.trials} for pack in packs]
    assert all(len(kinds) == 1 for kinds in held)
    assert {"nf4"} in held
    without = [trial for trial in trials if trial.spec.method != "qlora"]
    assert [pack for pack in packs if pack.trials[0].quantization == "none"] == list(
        plan_packs(without, Packing(slots=4))
    )


@pytest.mark.parametrize("methods", [["lora"], ["lora", "full"]])
def test_full_fine_tuning_of_a_quantised_base_is_refused_before_anything_runs(
    methods: list[str], configure: Configure
) -> None:
    def study(**protocol: Any) -> StudyContext:
        config = configure(methods=methods, protocol={**ONE, **protocol})
        return open_context(
            config.model_copy(update={"model": config.model.model_copy(update={"quantization": "nf4"})})
        )

    context = study()
    with pytest.raises(ConfigError, match="cannot train a base quantised to nf4") as caught:
        study_rows(context.config, context.base)
    assert "--no-full" in caught.value.hint
    context = study(full=False)
    assert "full" not in {row.id for row in study_rows(context.config, context.base)}


def test_the_probe_holds_both_bases_before_it_says_what_an_idle_process_holds(configure: Configure) -> None:
    context = open_context(configure(methods=["lora", "qlora"], protocol={**ONE, "full": False}))
    rows = study_rows(context.config, context.base)
    probe = run_probe(context, rows, workers=1, opening=1.0)
    assert {"LoRA", "QLoRA"} <= set(probe.rows)
    assert probe.rows["QLoRA"].kept > probe.rows["LoRA"].kept, "it trains all linear layers"
    assert "first_hash" in vars(context.base_as("nf4"))


def test_a_comparison_of_both_from_the_command_line(
    mood_files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = mood_files
    run_dir = tmp_path / "run"
    command = ["compare", "--model", str(model), "--data", str(data), "--methods", "lora,qlora", "--no-full", "--json"]
    command += ["--seeds", "1", "--out", str(run_dir), "protocol.lr=1e-3", "protocol.epochs=1"]
    done = remora(command)
    assert done.returncode == 0, done.stderr
    shown = {row["method"]: row for row in json.loads(done.stdout)["rows"]}
    assert {shown["lora"]["failed"], shown["qlora"]["failed"]} == {0}
    notes = {row.method: row.note for row in read_record(run_dir / STUDY_FILE, Study).rows}
    assert (notes["lora"], notes["qlora"]) == ("", "on a base quantised to nf4")
    costs = read_record(run_dir / COSTS_FILE, Costs).rows
    plain, held = costs["LoRA"].breakdown, costs["QLoRA"].breakdown
    assert plain is not None
    assert held is not None
    assert (plain.dense_base, held.dense_base) == (None, plain.base)
    assert held.base < plain.base
    assert "A base quantised to NF4 takes" in (run_dir / "report.html").read_text()
    adapter = run_dir / shown["qlora"]["adapter"]
    record = json.loads((adapter / "remora.json").read_text())
    assert record["base"]["quantization"] == "nf4"
    assert record["base"]["sha256"] == read_record(run_dir / STUDY_FILE, Study).model.sha256
    assert run_cli(["predict", str(adapter), "--text", "the food was great"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("good", "bad")
    assert run_cli(["evaluate", str(adapter), "--data", str(data), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    trial = read_result(run_dir, record["trial"])
    assert scored == trial.metrics["test"]["accuracy"]
