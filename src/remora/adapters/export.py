"""Adapters on their way out: as a PEFT folder, as plain LoRA, or merged into an ordinary model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from remora.adapters.card import model_card
from remora.adapters.folder import write_json, write_tensors, written_whole
from remora.adapters.format import LoadedAdapter, virtual_note
from remora.adapters.lora_form import VLLM_RANKS, lora_form, lora_settings, not_for_vllm, not_lora
from remora.adapters.merge import save_merged, unmergeable
from remora.adapters.peft_form import PeftForm, peft_form
from remora.adapters.record import CARD_FILE, PEFT_CONFIG, PEFT_TENSORS, RECORD_FILE, AdapterRecord
from remora.errors import AdapterError
from remora.models.base import Base

Form = Literal["peft", "lora", "merged"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written.

    Args:
        folder: where.
        form: as what.
        peft_type: of a PEFT folder, with its `rank` if that is LORA.
        notes: what a user must know, one sentence each.
        num_bytes: of all files.
    """

    folder: Path
    form: Form
    peft_type: str | None
    rank: int | None
    notes: tuple[str, ...]
    num_bytes: int


def export_adapter(folder: Path, base: Base, loaded: LoadedAdapter, form: Form, *, vllm: bool = False) -> Export:
    """Write an adapter for other programs.

    Args:
        folder: to be made.
        base: of the adapter.
        loaded: the adapter on it.
        form: "peft" for the PEFT type that holds it, "lora" for plain LoRA with the same logits, "merged" for an
            ordinary model.
        vllm: whether vLLM must accept it; "peft" and "lora" are then the same.

    Raises:
        AdapterError: the method's mathematics does not allow it, transformers has no such head, or vLLM does not take
            it; says what works.
        ConfigError: the folder is there already.
    """
    if loaded.head.kind == "coreference":
        raise AdapterError(
            f"{loaded.record.label} cannot be written for other programs: transformers has no class with its head,"
            " which is for coreference",
            "use it with Remora: remora predict, remora.load_adapter",
        )
    if form == "merged":
        save_merged(folder, base, loaded)
        return Export(folder=folder, form=form, peft_type=None, rank=None, notes=(), num_bytes=_num_bytes(folder))
    written = _lora(base, loaded, vllm=vllm) if vllm or form == "lora" else _peft(loaded)
    method = loaded.adapter.method
    notes = [virtual_note(loaded.head.kind)] if method.num_virtual_tokens > method.num_prefix_tokens else []
    if vllm:
        notes.append(_server_note(written.config["r"]))
    with written_whole(folder, replace=False) as aside:
        write_json(aside / PEFT_CONFIG, written.config)
        digest = write_tensors(aside / PEFT_TENSORS, written.tensors)
        record = _record(loaded, written, digest)
        (aside / CARD_FILE).write_text(model_card(record, base, notes), encoding="utf-8")
        # Only where Remora has the very tensors back from the file; else it reads the folder as one of peft's.
        if (written.exact or written.as_lora) and not written.config.get("rank_pattern"):
            write_json(aside / RECORD_FILE, record.model_dump(mode="json"))
    return Export(
        folder=folder,
        form="lora" if vllm else form,
        peft_type=written.config["peft_type"],
        rank=written.config.get("r"),
        notes=tuple(notes),
        num_bytes=_num_bytes(folder),
    )


def _peft(loaded: LoadedAdapter) -> PeftForm:
    label, adapter = loaded.record.label, loaded.adapter
    _refuse_whole(loaded)
    written = peft_form(adapter, loaded.head, loaded.head_params)
    if written is None:
        reason = f"there is no form for {adapter.method.name}" if adapter.sites else "nothing but the head was trained"
        raise AdapterError(f"{label} cannot be written for peft: {reason}", _what_works(loaded))
    return written


def _lora(base: Base, loaded: LoadedAdapter, *, vllm: bool) -> PeftForm:
    label, adapter = loaded.record.label, loaded.adapter
    _refuse_whole(loaded)
    reasons = not_for_vllm(adapter, loaded.head) if vllm else list(filter(None, [not_lora(adapter, base)]))
    if reasons:
        what = "served by vLLM as an adapter" if vllm else "written as LoRA"
        peft = not vllm and peft_form(adapter, loaded.head, loaded.head_params) is not None
        raise AdapterError(f"{label} cannot be {what}: {'; '.join(reasons)}", _what_works(loaded, peft=peft))
    written = lora_form(adapter, loaded.head, loaded.head_params)
    if vllm and written.config["r"] > VLLM_RANKS[-1]:
        raise AdapterError(
            f"{label} cannot be served by vLLM as an adapter: its rank as LoRA is {written.config['r']}, vLLM takes at"
            f" most {VLLM_RANKS[-1]}",
            _what_works(loaded),
        )
    return written


def _refuse_whole(loaded: LoadedAdapter) -> None:
    if loaded.adapter.method.shares_base and loaded.base_params:
        raise AdapterError(
            f"{loaded.record.label} holds whole modules of the base beside it, such as {min(loaded.base_params)}",
            _what_works(loaded),
        )


def _what_works(loaded: LoadedAdapter, *, peft: bool = False) -> str:
    works = ["--format peft writes it for peft"] if peft else []
    if unmergeable(loaded) is None:
        works.append("--format merged writes it as an ordinary model")
    return ", ".join(works) or "use it with Remora: remora predict, remora.load_adapter"


def _server_note(rank: int) -> str:
    limit = next(limit for limit in VLLM_RANKS if limit >= rank)
    return f"Start vLLM with --enable-lora --max-lora-rank {limit} (its default is 16)."


def _record(loaded: LoadedAdapter, written: PeftForm, digest: str) -> AdapterRecord:
    update: dict[str, Any] = {"storage": "peft", "files": {PEFT_TENSORS: digest}}
    if written.as_lora:
        label = f"{loaded.record.label} as LoRA"
        update |= {"method": "lora", "settings": lora_settings(loaded.adapter, written.config), "label": label}
    return loaded.record.model_copy(update=update)


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
