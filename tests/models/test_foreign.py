"""What other libraries raise on a model's files: one error of ours, but not where the file is not to blame."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BloomConfig, T5Config

from remora.errors import ModelError
from remora.models.foreign import parsing
from remora.models.load import load_base
from tests.models.test_load import save_model

READERS = [AutoConfig, AutoTokenizer, AutoModelForSequenceClassification]


def raising(error: BaseException) -> Any:
    def stand_in(*args: Any, **settings: Any) -> None:
        raise error

    return stand_in


@pytest.mark.parametrize("error", [TypeError("two\n lines"), RecursionError(), Exception("x" * 2000)])
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_any_exception_of_theirs_becomes_one_short_error(
    reader: Any, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path, "bert")
    monkeypatch.setattr(reader, "from_pretrained", raising(error))
    with pytest.raises(ModelError) as caught:
        load_base(str(folder))
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 700


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_lack_of_memory_is_not_called_a_damaged_file(
    reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path, "bert")
    monkeypatch.setattr(reader, "from_pretrained", raising(MemoryError()))
    with pytest.raises(MemoryError):
        load_base(str(folder))


def test_a_gguf_of_an_unknown_architecture_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(40))
    monkeypatch.setenv("REMORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **settings: BloomConfig())
    with pytest.raises(ModelError, match="model type 'bloom' is not supported"):
        load_base(str(file))
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **settings: T5Config())
    with pytest.raises(ModelError, match="encoder-decoders such as t5 are not read from GGUF files"):
        load_base(str(file), language_head=True)


def test_our_own_errors_pass_as_they_are() -> None:
    ours = ModelError("exactly this", "and this")
    with pytest.raises(ModelError) as caught, parsing("not this", "nor this"):
        raise ours
    assert caught.value is ours
