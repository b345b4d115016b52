"""The page of all methods is what their files say now."""

import importlib.util
from pathlib import Path

import pytest

from remora.methods.registry import list_methods
from remora.models.load import load_base

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.real
def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "scripts" / "methods_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.page(load_base(module.MODEL))
    assert text == module.PAGE.read_text(encoding="utf-8"), "run: make methods-page"
    assert text.count("**Use it**") == len(list_methods())
    assert "| [LoRA](#lora) | `lora` | reparameterized | 73,728 | yes | yes | LORA | 1e-4 to 1e-2 |" in text
