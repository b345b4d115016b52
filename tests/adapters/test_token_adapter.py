"""An adapter for tagged words: written, read back, used, and loaded by peft with the same logits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

from remora.adapters.format import AdapterInfo, save_adapter
from remora.cli.main import run_cli
from remora.data.tokenize import TextEncoder
from remora.engine.examples import tokenized
from remora.engine.trial import TrialData
from remora.errors import DataError
from remora.models.load import load_base
from remora.predict import load_adapter
from remora.tasks import make_task
from tests.moods import write_model
from tests.trials import run, spec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TAGS = ("B-GOOD", "I-GOOD", "O")
WORDS = (("the", "great", "day"), ("a", "very", "lovely", "happy", "film", "so", "bad"), ("food",))


def test_written_read_used_and_loaded_by_peft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel

    folder, model = tmp_path / "adapter", write_model(tmp_path / "model")
    base = load_base(str(model), dtype=torch.float32)
    task = make_task("token-classification", label_names=TAGS)
    encoded = TextEncoder(base.tokenizer).encode_texts(WORDS, 7, 0, "words")
    assert encoded.num_unread == 2
    examples = tokenized(encoded, np.zeros((3, 7), np.int64))
    data = TrialData(task=task, num_outputs=3, split=lambda name, room: examples, fingerprint="", head="token")
    outcome = run(base, data, [spec("lora", id="t", max_steps=2)])["t"]
    info = AdapterInfo(
        label="x", task="token-classification", label_names=TAGS, num_texts=1, text_columns=("tokens",),
        data_name="toy", data_hash="0", metric="span_f1", max_length=7,
    )  # fmt: skip
    save_adapter(folder, base, outcome, info)

    predictor = load_adapter(folder)
    logits = predictor.logits(WORDS)
    np.testing.assert_array_equal(logits, outcome.logits["validation"])
    found = [prediction.label for prediction in predictor.predict(WORDS)]
    assert [len(tags) for tags in found if isinstance(tags, tuple)] == [3, 7, 1]
    assert isinstance(found[1], tuple)
    assert found[1][5:] == ("O", "O")
    assert predictor.predict([" ".join(WORDS[0])])[0].label == found[0]
    for wrong in ([], ["a", 3], 7):
        with pytest.raises(DataError, match="the adapter reads words"):
            predictor.predict([wrong])  # type: ignore[list-item]

    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("TOKEN_CLS", ["classifier"])
    twin = AutoModelForTokenClassification.from_pretrained(model, num_labels=3, ignore_mismatched_sizes=True)
    twin = PeftModel.from_pretrained(twin, str(folder)).eval()
    for number in range(3):
        with torch.no_grad():
            expected = twin(input_ids=torch.from_numpy(encoded.ids[number])[None]).logits[0, 1:-1]
        torch.testing.assert_close(torch.from_numpy(logits[number][: len(expected)]), expected, rtol=0, atol=1e-5)

    assert run_cli(["predict", str(folder), "--text", "a happy day"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["text"] == "a happy day"
    assert len(line["label"]) == 3
    assert "AutoModelForTokenClassification" in (folder / "README.md").read_text()
