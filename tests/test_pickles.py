"""What counts as a file that may hold code."""

from pathlib import Path

import pytest

from remora.pickles import is_pickle


@pytest.mark.parametrize("name", ["a.bin", "A.BIN", "model.Pt", "x.tar.pkl", "rows.joblib", "w.npy", "w.h5"])
def test_names_in_any_case(name: str) -> None:
    assert is_pickle(Path(name))


@pytest.mark.parametrize("name", ["a.safetensors", "a.gguf", "bin", "a.bin.json", "a.jsonl.gz"])
def test_others(name: str) -> None:
    assert not is_pickle(Path(name))
