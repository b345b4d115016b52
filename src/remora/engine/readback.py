"""Losses and gradient norms of the steps taken, read from the device together.

Reading a number lets the host wait until the device has done everything queued before it. On a GPU a pack therefore
goes on for some steps without being looked at; a lane whose loss or gradient was not finite has been switched off on
the device since (`FlatAdamW.step`), so that reading late changes no result. On a CPU every step is read at once.
"""

from collections.abc import Sequence

import torch

from remora.engine.lanes import Lane

_EVERY = 16


def steps_between_reads(device: torch.device) -> int:
    """How many steps of a pack may go unread."""
    return 1 if device.type == "cpu" else _EVERY


def due(lanes: Sequence[Lane], every: int) -> bool:
    """Whether the host must know now what the steps gave: a lane is at its epoch's or its own end, or it is time."""
    return any(lane.finished or lane.at_epoch_end or len(lane.unread) >= every for lane in lanes)


def read_steps(lanes: Sequence[Lane]) -> list[range]:
    """Settle all unread steps of some lanes, in one transfer.

    Args:
        lanes: of a pack; their `losses`, `grad_norms`, `step` and `status` are then true.

    Returns:
        For every lane the steps now read, as places in its `losses`; those after it diverged are not among them.
    """
    unread = [pair for lane in lanes for pair in lane.unread]
    if not unread:
        return [range(0) for _ in lanes]
    losses, norms = (torch.stack(column).double() for column in zip(*unread, strict=True))
    values = iter(torch.stack([losses, norms], 1).tolist())
    read: list[range] = []
    for lane in lanes:
        start = len(lane.losses)
        lane.settle([next(values) for _ in lane.unread])
        read.append(range(start, len(lane.losses)))
    return read
