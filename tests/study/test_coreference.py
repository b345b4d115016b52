"""A whole study of documents on a tiny model: learnt in windows, compared, reported, written as columns, used."""

import json
from pathlib import Path

import pytest

from remora.adapters.record import read_record
from remora.cli.main import run_cli
from remora.data.clusters import MentionRules
from remora.data.conll import read_conll
from remora.errors import DataError
from remora.predict import load_adapter
from remora.results.predictions import read_predictions
from tests.commands import remora
from tests.documents import column_file, documents, write_jsonl
from tests.moods import write_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Model, data and run directory of a finished study."""
    folder = tmp_path_factory.mktemp("documents")
    model, data, run_dir = write_model(folder / "model"), column_file(folder / "d.conll", documents(36)), folder / "run"
    command = ["compare", "--model", str(model), "--data", str(data), "--methods", "full,lora", "--seeds", "2"]
    command += ["--out", str(run_dir), "protocol.lr=3e-3", "protocol.epochs=4", "model.dtype=float32"]
    done = remora([*command, "model.max_length=9"])
    assert done.returncode == 0, done.stderr
    assert "One sentence of a document ." in done.stdout
    return model, data, run_dir


def test_the_study_ends_with_a_report(files: tuple[Path, Path, Path]) -> None:
    run_dir = files[2]
    results = json.loads((run_dir / "results.json").read_text())
    assert (results["data"]["task"], results["data"]["metric"]) == ("coreference", "conll_f1")
    assert results["protocol"]["batch_size"] == 1
    rows = {row["method"]: row for row in results["rows"]}
    assert set(rows) == {"full", "lora", "head", "untrained", "majority"}
    assert rows["majority"]["mean"] == 0
    assert rows["full"]["mean"] > max(0.3, rows["untrained"]["mean"])
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())
    assert [each["label"] for each in results["detail"]["classes"]] == ["MUC", "B\u00b3", "CEAFe", "mention"]
    kinds = {warning["kind"]: warning["message"] for warning in results["warnings"]}
    assert "continued in the next one" in kinds["split"]
    assert "truncated" not in kinds
    page = (run_dir / "report.html").read_text()
    assert "CoNLL F1" in page
    assert "to be found" in page
    assert "read in windows of up to 9" in page
    assert "entities of train have one mention: such entities are predicted" in page
    trial = next(path.name for path in (run_dir / "trials").iterdir())
    assert read_predictions(run_dir, trial)["validation"].scores.shape[1] == 0


def test_adapters_are_used_and_written_as_columns(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((files[2] / "results.json").read_text())
    folders = {row["method"]: files[2] / row["adapter"] for row in results["rows"] if row["adapter"]}
    rows = documents(3)
    source, target = column_file(tmp_path / "d.conll", rows), tmp_path / "out.conll"
    for method, folder in folders.items():
        record = read_record(folder)
        assert record.mentions == MentionRules(singletons=True, max_width=2)
        assert record.storage == ("checkpoint" if method == "full" else "remora")
        assert not (folder / "adapter_config.json").exists()
        assert "transformers has no class for coreference" in (folder / "README.md").read_text()
        assert run_cli(["predict", str(folder), "--file", str(source), "--conll", str(target)]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["text"] for line in lines] == [[" ".join(s) for s in row["sentences"]] for row in rows]
        documents_again = read_conll(target)
        assert [document.words for document in documents_again] == [tuple(map(tuple, row["sentences"])) for row in rows]
        for document, line in zip(documents_again, lines, strict=True):
            written = sorted(sorted(map(list, spans)) for spans in document.clusters.values())
            assert written == sorted(line["label"])
        lists = write_jsonl(tmp_path / "d.jsonl", rows)
        assert run_cli(["predict", str(folder), "--file", str(lists)]) == 0
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
        assert run_cli(["export", str(folder), "--out", str(tmp_path / "x"), "--format", "merged"]) != 0
        assert "transformers has no class with its head" in capsys.readouterr().err


def test_documents_are_given_in_several_ways(files: tuple[Path, Path, Path]) -> None:
    results = json.loads((files[2] / "results.json").read_text())
    adapter = load_adapter(files[2] / next(row["adapter"] for row in results["rows"] if row["method"] == "full"))
    words = documents(1)[0]["sentences"]
    found = adapter.predict([words, [" ".join(sentence) for sentence in words]])
    assert found[0] == found[1]
    assert isinstance(found[0].label, tuple)
    assert len(found[0].label) > 0
    for wrong in ([], [[]], 7, [["a b"]]):
        with pytest.raises(DataError, match="the adapter reads documents"):
            adapter.predict([wrong])  # type: ignore[list-item]
