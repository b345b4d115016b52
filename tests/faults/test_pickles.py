"""Files that can run code are refused without being opened, whatever they are called, and the error says what to do."""

import gzip
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig

from remora.config.schema import DataConfig
from remora.data.dataset import load_dataset
from remora.data.read import read_table
from remora.errors import AdapterError, DataError, ModelError, RemoraError
from remora.models.load import load_base
from remora.predict import load_adapter
from tests.faults.effort import tally
from tests.faults.payloads import PAYLOADS, pickled, torch_zip, watched
from tests.moods import write_model
from tests.peft_made import made
from tests.tiny import tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
TENSORS = "adapter_model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "a"
    made("bert", LoraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2), folder)
    return folder


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "adapter"
    copy.mkdir()
    for name in ("adapter_config.json", TENSORS):
        (copy / name).write_bytes((original / name).read_bytes())
    return copy


def refused(marker: Path) -> None:
    """The payload did not run."""
    assert not marker.exists()
    tally("files with payloads that did not run", 1)


def test_the_payloads_are_live_and_the_watch_sees_them(tmp_path: Path) -> None:
    for make in (pickled, torch_zip):
        marker, file = tmp_path / f"{make.__name__}.ran", tmp_path / make.__name__
        file.write_bytes(make(marker))
        with watched() as watch, file.open("rb") as stream:
            if make is pickled:
                pickle.load(stream)  # noqa: S301
            else:
                torch.load(stream, weights_only=False)
        assert marker.exists()
        assert str(file) in watch.opened
        assert watch.unpickled


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_models(model: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    marker, bomb = tmp_path / "marker", model / f"pytorch_model{suffix}"
    (model / "model.safetensors").unlink()
    bomb.write_bytes(PAYLOADS[kind](marker))
    for given in (model, bomb):
        with watched() as watch, pytest.raises(ModelError, match=rf"pytorch_model\{suffix}.*not read") as caught:
            load_base(str(given))
        assert "safetensors" in caught.value.hint
        assert "refs/pr/" in caught.value.hint
        assert str(bomb) not in watch.opened
        assert not watch.unpickled
    refused(marker)


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_models_in_disguise(model: Path, tmp_path: Path, kind: str, name: str) -> None:
    marker = tmp_path / "marker"
    (model / name).write_bytes(PAYLOADS[kind](marker))
    with watched() as watch, pytest.raises(ModelError, match=r"cannot be (read|loaded)"):
        load_base(str(model))
    assert not watch.unpickled
    refused(marker)


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("name", ["model.gguf", "model.zip", "model.safetensors"])
def test_models_as_one_file(tmp_path: Path, kind: str, name: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / name
    for start in (b"", b"GGUF"):
        file.write_bytes(start + PAYLOADS[kind](marker))
        with watched() as watch, pytest.raises(ModelError, match=r"is not a|cannot be read"):
            load_base(str(file))
        assert not watch.unpickled
    refused(marker)


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_adapters(adapter: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    marker, bomb = tmp_path / "marker", adapter / f"adapter_model{suffix}"
    (adapter / TENSORS).unlink()
    bomb.write_bytes(PAYLOADS[kind](marker))
    with watched() as watch, pytest.raises(AdapterError, match=rf"adapter_model\{suffix} is not read") as caught:
        load_adapter(adapter, tiny_base("bert"))
    assert "save_pretrained" in caught.value.hint
    assert str(bomb) not in watch.opened
    assert not watch.unpickled
    refused(marker)


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("name", [TENSORS, "adapter_config.json", "remora.json"])
def test_adapters_in_disguise(adapter: Path, tmp_path: Path, kind: str, name: str) -> None:
    marker = tmp_path / "marker"
    load_adapter(adapter, tiny_base("bert"))
    (adapter / name).write_bytes(PAYLOADS[kind](marker))
    with watched() as watch, pytest.raises(AdapterError, match=r"cannot be read|is damaged"):
        load_adapter(adapter, tiny_base("bert"))
    assert not watch.unpickled
    refused(marker)


def test_a_class_that_an_adapter_names_is_not_imported(adapter: Path, tmp_path: Path) -> None:
    """peft imports what auto_mapping names."""
    marker = tmp_path / "marker"
    (adapter / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass Model: pass\n")
    path = adapter / "adapter_config.json"
    mapping = {"base_model_class": "Model", "parent_library": "evil"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_mapping": mapping}))
    load_adapter(adapter, tiny_base("bert"))
    assert not marker.exists()


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".npy", ".npz", ".joblib", ".zip"])
def test_data(tmp_path: Path, kind: str, suffix: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / f"train{suffix}"
    file.write_bytes(PAYLOADS[kind](marker))
    with watched() as watch, pytest.raises(DataError, match="not a data file") as caught:
        load_dataset(DataConfig(path=str(file)))
    assert suffix == ".zip" or "can run code" in caught.value.hint
    assert str(file) not in watch.opened
    assert not watch.unpickled
    refused(marker)


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "a.csv.gz", "a.json.gz"])
def test_data_in_disguise(tmp_path: Path, kind: str, name: str) -> None:
    marker, file = tmp_path / "marker", tmp_path / name
    content = PAYLOADS[kind](marker)
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with watched() as watch, pytest.raises(RemoraError):
        load_dataset(DataConfig(path=str(file)))
    assert not watch.unpickled
    refused(marker)


def test_a_pickled_type_inside_parquet_stays_bytes(tmp_path: Path) -> None:
    """pyarrow before 14.0.1 unpickled the metadata of such a column when the file was opened (CVE-2023-47248)."""
    marker, file = tmp_path / "marker", tmp_path / "a.parquet"
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled(marker)}
    schema = pa.schema([pa.field("text", pa.string(), metadata=kind), pa.field("label", pa.string())])
    pq.write_table(pa.table({"text": ["a", "b"], "label": ["x", "y"]}, schema=schema), file)
    with watched() as watch:
        table = read_table(file)
    assert table.columns == {"text": ["a", "b"], "label": ["x", "y"]}
    assert not watch.unpickled
    refused(marker)
