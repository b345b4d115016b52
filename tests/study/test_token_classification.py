"""A whole study of tagged words on a tiny model: learnt, compared, reported by type, written for peft, used."""

import json
from pathlib import Path

import pytest

from tests.commands import remora
from tests.moods import BAD, FILLER, GOOD, write_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def write_sentences(path: Path) -> Path:
    """Every sentence has an entity of one word and one of two, in changing places."""
    rows: list[str] = []
    for n in range(240):
        words, tags = [FILLER[(n + i) % 8] for i in range(6 + n % 3)], ["O"] * (6 + n % 3)
        at = n % 3
        words[at], tags[at] = GOOD[n % 4], "B-GOOD"
        words[at + 2 : at + 4], tags[at + 2 : at + 4] = [BAD[n % 4], BAD[n // 4 % 4]], ["B-BAD", "I-BAD"]
        rows.append(json.dumps({"id": n, "tokens": [*words, f"w{n}"], "tags": [*tags, "O"]}))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Model, data and run directory of a finished study."""
    folder = tmp_path_factory.mktemp("tags")
    model, data, run_dir = write_model(folder / "model"), write_sentences(folder / "d.jsonl"), folder / "run"
    command = ["compare", "--model", str(model), "--data", str(data), "--methods", "lora", "--no-full", "--seeds", "2"]
    command += ["--out", str(run_dir), "protocol.lr=1e-2", "protocol.epochs=6", "model.dtype=float32"]
    done = remora([*command, "model.max_length=9"])
    assert done.returncode == 0, done.stderr
    assert "Words with blanks between them" in done.stdout
    return model, data, run_dir


def test_the_study_ends_with_a_report_by_type(files: tuple[Path, Path, Path]) -> None:
    results = json.loads((files[2] / "results.json").read_text())
    assert results["data"]["task"] == "token-classification"
    means = {row["method"]: row["mean"] for row in results["rows"]}
    assert set(means) == {"lora", "head", "untrained", "majority"}
    assert means["majority"] == 0
    assert means["lora"] > 0.25 > means["untrained"]
    assert all(row["low"] <= row["mean"] <= row["high"] for row in results["rows"])
    assert [each["label"] for each in results["detail"]["classes"]] == ["BAD", "GOOD"]
    assert results["detail"]["outside"] == "no entity"
    page = (files[2] / "report.html").read_text()
    assert "no entity" in page
    assert "span F1" in page
    cut = next(warning["message"] for warning in results["warnings"] if warning["kind"] == "truncated")
    assert "are not read, and entities there count as missed" in cut
