"""Arrays from the host to the device without waiting for what the device is doing.

A plain copy from pageable memory lets the host wait until the device has done everything queued before it. Pinned
memory does not; torch keeps a block of it until the copy has been made.
"""

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on a device; on the CPU it shares the array's memory.

    Args:
        values: of a type torch knows.
        device: where the tensor goes.
    """
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
