"""Host to device without waiting: what a step computes on the CPU reaches a GPU while it works."""

from __future__ import annotations

import numpy as np
import torch


def on_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return ``values`` as a tensor on ``device``, of their dtype; on the CPU they share memory.

    A copy from pageable memory makes the host wait until the GPU has done all that was asked of it before. From pinned
    memory it does not; PyTorch's allocator keeps the pinned copy until the transfer is over.
    """
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def host_pixels(shape: tuple[int, ...], device: torch.device) -> np.ndarray:
    """Return an uninitialised uint8 array of ``shape`` on the host: pinned where ``device`` is a GPU."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda").numpy()
