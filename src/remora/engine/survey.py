"""What a method may look at before it trains: gradients of single examples with respect to the base's own weights.

The weights stay frozen: a change of zero is attached at every site, and its gradient is the weight's.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.engine.trial import Examples, TaskLoss
from remora.methods.base import AdapterTensors, LinearChange, Method, MethodConfig, SiteState, SiteWeights, Tensors
from remora.models.heads import HeadTemplate
from remora.models.sites import Site


class _Probe(Method):
    """Adds zeros to the weight at each of its sites."""

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The zeros."""
        return LinearChange(delta=state["delta"])


def weight_gradients(
    driver: Driver,
    adapter: AdapterTensors,
    head: HeadTemplate,
    head_params: Mapping[str, Tensor],
    task: TaskLoss,
    examples: Examples,
    chosen: np.ndarray,
) -> Iterator[dict[str, Tensor]]:
    """Gradients at the linear sites of an adapter, example by example, without dropout.

    Args:
        driver: of the base, which is looked at as it is: the adapter lends its sites only.
        adapter: whose sites are meant.
        head: with `head_params`, as drawn for the trial.
        task: its loss.
        examples: of the training split.
        chosen: which examples.

    Yields:
        (O, D) by `Site.id`, in float32 at least.
    """
    master = torch.float64 if driver.base.dtype == torch.float64 else torch.float32
    sites = tuple(site for site in adapter.sites if site.kind == "linear")
    shapes = {site.id: (site.out_features, site.in_features) for site in sites}
    zeros = {
        key: torch.zeros(shape, dtype=master, device=driver.device).requires_grad_() for key, shape in shapes.items()
    }
    states = {key: SiteState(trained={"delta": value}) for key, value in zeros.items()}
    probe = AdapterTensors(method=_Probe(MethodConfig()), sites=sites, states=states, shared={})
    for number in chosen:
        sequences = examples.sequences(np.array([number]))
        batch = LaneBatch(
            ids=[examples.ids[i] for i in sequences],
            type_ids=[examples.type_ids[i] for i in sequences],
            decoder_ids=examples.decoder_of(sequences),
            index=range(len(sequences)),
            places=None if examples.places is None else [examples.places[i] for i in sequences],
        )
        rows, _ = driver.read(driver.lay_out([batch], training=False), [probe])
        outputs = head.forward(head_params, rows, next_N=examples.next_of(sequences, rows.device))
        logits = examples.logits(outputs, np.array([number]))
        targets = torch.from_numpy(examples.targets[[number]]).to(logits.device)
        loss = task.loss(logits, targets).sum()
        yield dict(zip(zeros, torch.autograd.grad(loss, list(zeros.values())), strict=True))
