"""Logits of a trained lane without gradients: the same passes when training evaluates and when an adapter predicts."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from remora.engine.driver import EVAL_TOKENS, Driver
from remora.engine.examples import as_logits, calibrated
from remora.engine.layout import LaneBatch, Layout, token_chunks
from remora.engine.stack import Entry
from remora.engine.transfer import to_device
from remora.engine.trial import Examples
from remora.methods.base import AdapterTensors

Head = Callable[[Tensor, Tensor | None], Tensor]
Enter = Callable[[np.ndarray, Layout], Entry]


def infer(
    driver: Driver,
    adapter: AdapterTensors,
    head: Head,
    examples: Examples,
    *,
    num_outputs: int,
    params: Mapping[str, Tensor] | None = None,
    enter: Enter | None = None,
) -> np.ndarray:
    """The logits of all examples, calibrated where they have a reference.

    Sequences are cut into passes by their lengths alone, so the same examples give the same bits again.

    Args:
        driver: of the base.
        adapter: attached while it runs.
        head: rows (N, D) and the tokens asked for behind them (`Examples.next_of`) -> logits (N, C).
        examples: tokenized; `targets` are not looked at.
        num_outputs: C.
        params: the backbone's own tensors by name, where fine-tuning changed them.
        enter: the known states with which a pass over some examples enters the stack; None to compute all of it.

    Returns:
        float32, in the split's order; see `Examples.logits`.
    """
    logits = as_logits(_outputs(driver, adapter, head, examples, num_outputs, params, enter), examples)
    if examples.reference is None:
        return logits
    told = infer(driver, adapter, head, examples.reference, num_outputs=num_outputs, params=params)
    return calibrated(logits, told)


def _outputs(
    driver: Driver,
    adapter: AdapterTensors,
    head: Head,
    examples: Examples,
    num_outputs: int,
    params: Mapping[str, Tensor] | None,
    enter: Enter | None,
) -> np.ndarray:
    """(R, C) what counts of what the head makes of every row, in the order of examples, sequences and places."""
    room = adapter.method.num_virtual_tokens
    width = num_outputs if examples.wanted is None else 1
    out = np.empty((int(examples.num_rows.sum()), width), np.float32)
    with torch.no_grad():
        if not adapter.sites and params is None and examples.wanted is None and examples.next_tokens is None:
            rows = base_rows(driver, examples)
            return head(rows, None).float().cpu().numpy() if len(examples) else out
        for chosen in token_chunks(examples.all_ids, EVAL_TOKENS, room):
            rows = _pass(driver, adapter, examples, chosen, params, enter)
            outputs = head(rows, examples.next_of(chosen, rows.device))
            out[examples.rows(chosen)] = examples.counted(outputs, chosen).float().cpu().numpy()
    return out


def base_rows(driver: Driver, examples: Examples) -> Tensor:
    """(R, D) rows that a head reads, from the untouched base, in the examples' order and the base's compute dtype."""
    num_rows = int(examples.num_rows.sum())
    out = torch.empty(num_rows, driver.base.hidden_size, dtype=driver.base.dtype, device=driver.device)
    with torch.no_grad():
        for chosen in token_chunks(examples.all_ids, EVAL_TOKENS):
            out[to_device(examples.rows(chosen), driver.device)] = _pass(driver, None, examples, chosen)
    return out


def _pass(
    driver: Driver,
    adapter: AdapterTensors | None,
    examples: Examples,
    chosen: np.ndarray,
    params: Mapping[str, Tensor] | None = None,
    enter: Enter | None = None,
) -> Tensor:
    total, prefix = (0, 0) if adapter is None else (adapter.method.num_virtual_tokens, adapter.method.num_prefix_tokens)
    batch = LaneBatch(
        ids=[examples.ids[i] for i in chosen],
        type_ids=[examples.type_ids[i] for i in chosen],
        decoder_ids=examples.decoder_of(chosen),
        index=range(len(chosen)),
        num_virtual=total - prefix,
        num_prefix=prefix,
        places=None if examples.places is None else [examples.places[i] for i in chosen],
    )
    layout = driver.lay_out([batch], training=False)
    return driver.read(layout, [adapter], params, None if enter is None else enter(chosen, layout))[0]
