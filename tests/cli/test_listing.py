import json

import pytest

from remora.cli.listing import cell
from remora.cli.main import run_cli


def listed(what: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    assert run_cli(["list", what, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_methods_say_what_they_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    entries = {str(entry["name"]): entry for entry in listed("methods", capsys)}
    lora = entries["lora"]
    for key in ("name", "family", "shares_base", "mergeable", "peft_type", "citation"):
        assert key in lora
    assert lora["peft_type"] == "LORA"
    assert lora["shares_base"] is True
    assert entries["full"]["shares_base"] is False


@pytest.mark.real
def test_methods_count_their_parameters_on_a_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["list", "methods", "--json", "--model", "minilm"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["lora"]["adapter_params"] == 6 * 2 * 8 * (384 + 384)
    assert entries["lora"]["summary"].startswith("LoRA: y = W x")
    assert entries["full"]["adapter_params"] > 22_000_000
    assert entries["head"]["adapter_params"] == 0


@pytest.mark.parametrize("what", ["methods", "models", "datasets", "recipes"])
def test_every_list_has_names_in_order_and_a_table(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(entry["name"]) for entry in listed(what, capsys)]
    assert names
    assert names == sorted(names)
    assert run_cli(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(names)
    assert [line.split()[0] for line in lines[1:]] == names


def test_cells() -> None:
    assert [cell(value) for value in (True, False, None, ["a", 1], 0.5)] == ["yes", "no", "-", "a 1", "0.5"]
