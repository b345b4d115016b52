"""The drivers of a process that trains a study: one for each way in which its rows need the base to be held."""

import torch

from remora.engine.driver import Driver
from remora.models.base import Quantization
from remora.study.context import StudyContext


class Drivers:
    """Drivers of a study's bases, opened when they are first asked for.

    Args:
        context: of the study.
        device: where the bases train.
    """

    def __init__(self, context: StudyContext, device: torch.device) -> None:
        self._context = context
        self._device = device
        self._open: dict[Quantization, Driver] = {}

    def __enter__(self) -> "Drivers":
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self._open.values():
            driver.close()
        self._open = {}

    def on(self, quantization: Quantization) -> Driver:
        """The driver of the base that is held so."""
        if quantization not in self._open:
            _ = self._context.base_as(quantization).first_hash  # as it was before anything trained on it
            self._open[quantization] = Driver(self._context.base_on(self._device, quantization))
        return self._open[quantization]

    def check_unchanged(self) -> None:
        """Assert that training changed no base."""
        for quantization, driver in self._open.items():
            if driver.base.hash() != self._context.base_as(quantization).first_hash:
                raise AssertionError("the base model was changed by training")
