"""Weights mapped from the cache: what was loaded, in memory once, and never out of date."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from remora.models import load
from remora.models.base import Base
from remora.models.files import resolve
from remora.models.load import load_base
from remora.models.mapped import keep_weights, map_weights, weights_key
from remora.paths import cache_dir
from tests.models.test_load import save_model
from tests.tiny import ALL


def bases_in_cache() -> set[str]:
    return {path.name for path in (cache_dir() / "bases").glob("*")}


def load_without_cache(folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Base:
    with monkeypatch.context() as patch:
        patch.setattr(load, "map_weights", lambda key: None)
        patch.setattr(load, "keep_weights", lambda key, tensors: False)
        return load_base(str(folder), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_the_mapped_base_is_the_loaded_one(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "model", name)
    plain = load_without_cache(folder, dtype, monkeypatch)
    load_base(str(folder), dtype=dtype)

    def no_loading(*_: object, **__: object) -> None:
        raise AssertionError("the weights were read again")

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", no_loading)
    before = torch.random.get_rng_state()
    mapped = load_base(str(folder), dtype=dtype)
    assert torch.equal(before, torch.random.get_rng_state())
    assert mapped.hash() == plain.hash()
    assert {n: p.shape for n, p in mapped.model.named_parameters()} == {
        n: p.shape for n, p in plain.model.named_parameters()
    }
    theirs = dict(plain.model.named_buffers())
    for key, value in mapped.model.named_buffers():
        assert torch.equal(value, theirs[key])
    assert {n: t.dtype for n, t in mapped.pooler.items()} == {n: t.dtype for n, t in plain.pooler.items()}
    assert not mapped.model.training
    assert not any(parameter.requires_grad for parameter in mapped.model.parameters())
    assert all(parameter.data_ptr() % 64 == 0 for parameter in mapped.model.parameters())


def test_a_write_stays_in_its_process(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "model"))
    base = load_base(folder)
    before = base.hash()
    with torch.no_grad():
        next(base.model.parameters()).add_(1)
    assert base.hash() != before
    assert load_base(folder).hash() == before


def test_a_changed_file_is_loaded_anew(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    first = load_base(str(folder)).hash()
    weights = folder / "model.safetensors"
    stamp = weights.stat()
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert weights.stat().st_size == stamp.st_size
    assert load_base(str(folder)).hash() != first


@pytest.mark.parametrize("damage", ["short", "no index", "bad index"])
def test_damaged_files_are_replaced(damage: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    expected = load_base(str(folder)).hash()
    key = weights_key(resolve(str(folder)), torch.float32)
    raw, index = (cache_dir() / "bases" / f"{key}.{suffix}" for suffix in ("bin", "json"))
    if damage == "short":
        raw.write_bytes(raw.read_bytes()[:100])
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text("{")
    assert map_weights(key) is None
    assert load_base(str(folder)).hash() == expected
    assert map_weights(key) is not None


def test_without_room_in_the_cache_the_base_is_loaded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "model")
    expected = load_base(str(folder)).hash()
    (tmp_path / "bases").write_text("a file where a folder should be")
    monkeypatch.setenv("REMORA_CACHE", str(tmp_path))
    assert not keep_weights("key", {"x": torch.ones(2)})
    assert load_base(str(folder)).hash() == expected


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    before = bases_in_cache()
    load_base(str(save_model(tmp_path / "model")))
    assert {Path(name).suffix for name in bases_in_cache() - before} == {".bin", ".json"}
