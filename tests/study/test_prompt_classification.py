"""A whole study of prompts on a tiny LLaMA: zero-shot beside trained, reported by class, written for peft, used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from remora.config.load import apply_overrides, build_study, dump_yaml, fingerprint
from remora.data.prompts import Prompt
from remora.errors import ConfigError, ModelError, RemoraError
from remora.study.context import StudyContext, open_context
from remora.study.rows import study_rows
from remora.study.trials import TrialMaker
from tests.commands import remora
from tests.moods import write_model as write_encoder
from tests.prompts import CHAT, write_data, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama") / "model", chat=CHAT)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, Path]:
    """Data and run directory of a finished study."""
    folder = tmp_path_factory.mktemp("prompts")
    data, run_dir = write_data(folder / "d.csv"), folder / "run"
    command = ["compare", "--model", str(model), "--data", str(data), "--methods", "lora", "--no-full", "--seeds", "2"]
    command += ["--out", str(run_dir), "protocol.lr=5e-3", "protocol.epochs=4", "model.dtype=float32"]
    command += ["data.task=prompt-classification", "prompt.template=plain", "model.max_length=64"]
    command += ["prompt.calibration=content-free"]
    done = remora(command)
    assert done.returncode == 0, done.stderr
    return data, run_dir


def test_the_study_has_a_zero_shot_row_and_a_report_by_class(files: tuple[Path, Path]) -> None:
    results = json.loads((files[1] / "results.json").read_text())
    assert results["data"]["task"] == "prompt-classification"
    rows = {row["method"]: row for row in results["rows"]}
    assert set(rows) == {"lora", "untrained", "majority"}
    assert (rows["untrained"]["label"], rows["untrained"]["seeds"]) == ("zero-shot", 1)
    assert rows["lora"]["head_params"] == 0
    assert rows["lora"]["mean"] > 0.6 > rows["majority"]["mean"]
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())
    assert [each["label"] for each in results["detail"]["classes"]] == ["negative", "positive"]
    page = (files[1] / "report.html").read_text()
    assert "zero-shot" in page
    assert "untrained model" not in page
    assert "texts are put to the language model in prompts: template plain, 0 shots, answers calibrated" in page


def test_its_adapter_answers_with_label_and_probabilities(files: tuple[Path, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "remora", "predict", str(files[1]), "--text", "the food great a 3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["label"] == "positive"
    assert set(line["scores"]) == {"negative", "positive"}
    assert sum(line["scores"].values()) == pytest.approx(1.0)
    folder = next((files[1] / "trials").glob("lora*/adapter"))
    record = json.loads((folder / "remora.json").read_text())["prompt"]
    assert (record["template"], record["shots"], record["calibration"]) == ("plain", 0, "content-free")
    assert record["parts"] == ["text: ", 0, "\nlabel: "]
    card = (folder / "README.md").read_text()
    assert "AutoModelForCausalLM" in card
    assert "plain" in card


def opened(model: Path, data: Path, *overrides: str) -> StudyContext:
    """The context of a study of prompts."""
    tree: dict[str, object] = {"kind": "compare", "model": {"id": str(model)}, "data": {"path": str(data)}}
    given = ["data.task=prompt-classification", "model.dtype=float32", *overrides]
    return open_context(build_study(apply_overrides(tree, given), "study.yaml"))


def shown(context: StudyContext) -> Prompt:
    assert context.prompts is not None
    return context.prompts.prompt


def test_alpaca_is_the_published_text_and_the_default(model: Path, tmp_path: Path) -> None:
    prompt = shown(opened(model, write_data(tmp_path / "d.csv")))
    assert prompt.text(["a film"])[0] == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nClassify the text. Answer with one of "
        "these: negative, positive.\n\n### Input:\na film\n\n### Response:\n"
    )
    assert prompt.answer("positive") == "positive"


def test_own_templates_take_texts_as_they_are(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.csv")
    own = json.dumps("{instruction} {{x}} {text}\nMood: ")
    prompt = shown(
        opened(model, data, f"prompt.template={own}", "prompt.instruction=Judge.", "prompt.labels.positive=up")
    )
    assert prompt.text(["{instruction.__class__} {0}"])[0] == "Judge. {x} {instruction.__class__} {0}\nMood:"
    assert prompt.answer("positive") == " up"
    assert prompt.labels == {"negative": "negative", "positive": "up"}


def test_shots_are_drawn_from_train_and_left_out_of_it(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.csv")
    few = ("prompt.template=plain", "prompt.shots=4")
    context, again = opened(model, data, *few), opened(model, data, *few)
    zero = opened(model, data, "prompt.template=plain")
    prompt = shown(context)
    assert prompt == shown(again)
    solved = str(prompt.parts[0]).split("\n\n")[:-1]
    assert sorted(block.rsplit(": ", 1)[1] for block in solved) == ["negative"] * 2 + ["positive"] * 2
    texts = {block.removeprefix("text: ").rsplit("\nlabel", 1)[0] for block in solved}
    before, after = ({row[0] for row in each.dataset.train.texts} for each in (zero, context))
    assert texts <= before
    assert before - after == texts
    assert context.dataset.test == zero.dataset.test
    short = opened(model, data, *few, "model.max_length=120")
    assert len(str(shown(short).parts[0])) < len(str(prompt.parts[0]))
    assert short.encoded("test").lengths.max() <= 120
    rows = study_rows(context.config, context.base, context.task.name)
    assert [row.label for row in rows if row.id in ("untrained", "head")] == ["4-shot"]
    (trial,) = TrialMaker(context).untrained(next(row for row in rows if row.id == "untrained"))
    (other,) = TrialMaker(zero).untrained(next(row for row in rows if row.id == "untrained"))
    assert trial.spec.id != other.spec.id


def test_chats_are_what_the_tokenizer_makes_of_messages(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.csv")
    context = opened(model, data, "prompt.template=chat", "prompt.instruction=Judge.", "prompt.shots=2")
    prompt = shown(context)
    blocks = str(prompt.parts[0]).split("<|im_start|>")
    assert [block.split("\n")[0] for block in blocks[1:]] == ["user", "assistant", "user", "assistant", "user"]
    assert prompt.text(["so fine"])[0].endswith(
        "<|im_start|>user\nJudge.\n\nso fine<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = context.encoded("test").ids[0]
    assert ids.tolist().count(3) == 6  # <|im_start|> is one token, and none is put in front
    assert ids[0] == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt.template=Say it"], r"command line, prompt\.template=Say it: .*no field for the text"),
        (["prompt.template=alpacca"], "the ready-made ones are auto, alpaca, plain, chat"),
        (['prompt.template="{txet}: "'], r"there is no field \{txet\}; did you mean \{text\}"),
        (['prompt.template="{txet}: "', "data.text=text"], r"command line, .*there is no field \{txet\}"),
        (['prompt.template="{text}"'], "ends with its last field"),
        (['prompt.template="{text.__class__}: "'], r"there is no field \{text\.__class__\}"),
        (['prompt.template="{text} { :"'], r"a lone '\{' in line 1"),
        (['prompt.template="{text} {text}:"'], "twice"),
        (['prompt.template="{text} L:"', "prompt.instruction=x"], r"no field \{instruction\}"),
        (["prompt.labels.postive=x"], "no such class.*did you mean 'positive'"),
        (['prompt.labels.positive=""'], r"prompt\.labels\.positive: the label 'positive' .* has no tokens"),
        (["prompt.labels.positive=negative"], r"positive.* has the same tokens as the label 'negative'"),
        (["prompt.labels.positive=negative film"], r"prompt\.labels\.positive: .*begins with all tokens of"),
        (["prompt.shots=500"], "some must be left"),
        (["prompt.shots=20"], "do not fit into 256 tokens"),
        (["model.max_length=20"], "leave no room for text"),
        (["methods=[head]"], "nothing to train"),
    ],
)
def test_one_clear_error_before_anything_is_computed(
    model: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    data = write_data(tmp_path / "d.csv", 40)

    def prepare() -> None:
        context = opened(model, data, *overrides)
        study_rows(context.config, context.base, context.task.name)
        context.lengths()

    with pytest.raises(RemoraError, match=message):
        prepare()


def test_a_label_of_the_data_is_named_by_file_and_line(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text("text,label\n" + "".join(f"a film {n},{'sad' if n % 2 else 'sad film'}\n" for n in range(40)))
    with pytest.raises(ConfigError, match=r"d\.csv:2: the label 'sad film' begins with all tokens of the label 'sad'"):
        opened(model, data)


def test_models_that_cannot_be_prompted_are_refused(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.csv", 40)
    with pytest.raises(ModelError, match="no causal language model"):
        opened(write_encoder(tmp_path / "bert"), data)
    with pytest.raises(ModelError, match="has no chat template"):
        opened(write_model(tmp_path / "plain"), data, "prompt.template=chat")
    with pytest.raises(
        ConfigError, match=r"prompt: has a meaning with data\.task=prompt-classification or summarization only"
    ):
        opened(model, data, "data.task=classification", "prompt.shots=2")


def test_settings_of_prompts_leave_other_studies_alone() -> None:
    tree: dict[str, object] = {"model": "m", "data": "d"}
    plain, prompts = build_study(tree), build_study(apply_overrides(tree, ["data.task=prompt-classification"]))
    assert "prompt" not in dump_yaml(plain)
    assert "prompt:" in dump_yaml(prompts)
    assert fingerprint(plain) == fingerprint(build_study(tree))
    other = build_study(apply_overrides(tree, ["data.task=prompt-classification", "prompt.shots=2"]))
    assert len({fingerprint(each) for each in (plain, prompts, other)}) == 3
