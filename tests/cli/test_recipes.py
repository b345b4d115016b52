"""A recipe of two studies as a user runs it, on a tiny model: report, figures, resume, and what may go wrong."""

import json
import re
import shutil
from pathlib import Path

import pytest

from remora.cli.main import run_cli
from remora.results.store import read_record
from remora.results.summary_schema import StudySummary
from remora.study.solo import NUM_STEPS
from tests.moods import write_data, write_model

TEXT = """
recipe:
  title: "Moods <twice>"
  summary: Two studies of moods.
  citation: "Nobody 2030"
  chosen: ["Everything."]
  small: ["One seed."]
  columns: [macro_f1, rouge1, train_loss, trained_share]
  published:
    - {study: plain, row: LoRA, measure: accuracy, value: 0.875, note: one run}
    - {study: plain, row: LoRA, measure: adapter_params, value: 1234}
  pictures:
    - {kind: bars, studies: [plain, grid], measures: [accuracy, train_seconds, trained_params], caption: Bars.}
    - {kind: heat, studies: [grid], measures: [accuracy, peak_bytes], x: rank, y: alpha, panel: dropout, caption: Heat.}
    - {kind: curves, studies: [plain], caption: Lines.}
    - {kind: memory, studies: [plain], caption: Memory.}
    - {kind: table, studies: [sizes], measures: [accuracy], x: rank, y: train_rows, panel: model, caption: Sizes.}
shared:
  model: MODEL
  data: DATA
  methods: [{id: lora, label: LoRA}]
  protocol: {mode: published, lr: 1.0e-3, epochs: 2, seeds: 2, full: false}
studies:
  plain: {}
  grid:
    methods: [{id: lora, grid: {rank: [2, 4], alpha: [4.0], dropout: [0.1]}}]
    protocol: {seeds: 1, epochs: 1}
  sizes:
    vary: {data.train_limit: [20, 60]}
    methods: [{id: lora, label: "LoRA of {rank}", grid: {rank: [2, 4]}}]
    protocol: {epochs: 1}
small:
  shared: {protocol: {seeds: 1}}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    path = folder / "moods2030.yaml"
    path.write_text(TEXT.replace("MODEL", str(model)).replace("DATA", str(data)))
    return path


@pytest.fixture(scope="module")
def done(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small form, run whole."""
    out = tmp_path_factory.mktemp("out") / "moods"
    assert run_cli(["run", str(file), "--small", "--out", str(out)]) == 0
    return out


def test_published_stands_beside_measured(done: Path) -> None:
    summary = read_record(done / "plain" / "results.json", StudySummary)
    row = summary.row("LoRA")
    text = (done / "report.md").read_text()
    assert row.mean is not None
    (line,) = [line for line in text.splitlines() if "one run" in line]
    assert [cell.strip() for cell in line.split("|")[1:5]] == [
        "plain: LoRA",
        "accuracy",
        "87.5",
        f"{100 * row.mean:.1f}",
    ]
    (line,) = [line for line in text.splitlines() if "| adapter params |" in line]
    assert [cell.strip() for cell in line.split("|")[3:5]] == ["1 234", f"{row.adapter_params:,}".replace(",", " ")]
    assert "protocol.seeds: 2, here 1" in text
    assert "One seed." in text
    assert "macro F1" in text
    assert "ROUGE" not in text, "what no row of a study has takes no column"


def test_figures_are_there_and_text_stays_text(done: Path) -> None:
    names = {path.stem for path in (done / "figures").glob("*.svg")}
    assert names == {"1-bars", "2-heat-grid", "3-score-plain", "3-loss-plain", "4-memory-plain"}
    page = (done / "report.html").read_text()
    assert "Moods &lt;twice&gt;" in page
    assert page.count("<svg") == 5
    heat = (done / "figures" / "2-heat-grid.svg").read_text()
    assert "dropout 0.1" in heat
    values = [text for text in re.findall(r">([^<>]+)</text>", heat) if text.endswith((" MB", " GB"))]
    assert len(values) == 2, "peak memory of every point of the grid"


def test_a_table_over_sizes_and_settings(done: Path) -> None:
    text = (done / "report.md").read_text()
    for size in (20, 60):
        summary = read_record(done / f"sizes-{size}" / "results.json", StudySummary)
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {size} |")]
        cells = [cell.strip() for cell in line.split("|")[2:5]]
        means = [summary.row(label).mean for label in ("untrained model", "LoRA of 2", "LoRA of 4")]
        assert all(mean is not None for mean in means)
        assert [cell.split(" ")[0] for cell in cells] == [f"{100 * (mean or 0):.1f}" for mean in means]
        assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", cell) for cell in cells)
    assert "| training rows | untrained model | rank 2 | rank 4 |" in text


def test_memory_is_there_for_every_step(done: Path) -> None:
    row = read_record(done / "plain" / "results.json", StudySummary).row("LoRA")
    assert len(row.memory_trace) == NUM_STEPS
    assert [sample.seconds for sample in row.memory_trace] == sorted(sample.seconds for sample in row.memory_trace)
    assert row.peak_bytes is not None
    assert 0 < max(sample.bytes for sample in row.memory_trace) <= row.peak_bytes


def test_resume_trains_nothing_again_and_reports_the_same(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(done, folder)
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("result.json")}
    shutil.rmtree(folder / "grid" / "trials" / sorted(folder.glob("grid/trials/lora-*"))[0].name)
    (folder / "report.md").unlink()
    capsys.readouterr()
    assert run_cli(["resume", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [study["study"] for study in answer["studies"]] == [
        "moods2030-plain",
        "moods2030-grid",
        "moods2030-sizes-20",
        "moods2030-sizes-60",
    ]
    after = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("result.json")}
    assert set(after) == set(before)
    assert sum(after[path] != content for path, content in before.items()) <= 1
    text = (folder / "report.md").read_bytes()
    assert b"protocol.seeds: 2, here 1" in text, "what it differs in is kept"
    assert run_cli(["report", str(folder)]) == 0
    assert (folder / "report.md").read_bytes() == text


def test_plan_of_all_studies(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["run", str(file), "--small", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {name: study["trials"] for name, study in plan["studies"].items()} == {
        "plain": 2,
        "grid": 3,
        "sizes-20": 3,
        "sizes-60": 3,
    }
    assert plan["trials"] == 11
    assert run_cli(["run", str(file), "--only", "sizes-2*", "--dry-run", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["studies"]) == ["sizes-20"]


def test_errors_of_all_studies_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["studies.plain.protocol.epochs=0", "studies.grid.data.train_limit=-1"]
    assert run_cli(["run", str(file), *given]) == 2
    said = capsys.readouterr().err
    assert "protocol.epochs" in said
    assert "data.train_limit" in said


def test_published_mode_wants_a_rate_for_every_row(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["run", str(file), "--dry-run", "protocol.lr=null"]) == 2
    assert "tunes none" in capsys.readouterr().err


def test_another_recipe_in_the_folder(file: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = file.with_name("other.yaml")
    other.write_text(file.read_text())
    assert run_cli(["run", str(other), "--small", "--out", str(done)]) == 2
    assert "holds the recipe moods2030" in capsys.readouterr().err


def test_a_recipe_folder_names_no_study_outside(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(done, folder)
    path = folder / "recipe.json"
    path.write_text(path.read_text().replace('"grid"', '"../grid"'))
    assert run_cli(["report", str(folder)]) == 3
    assert "no name in a run directory" in capsys.readouterr().err
