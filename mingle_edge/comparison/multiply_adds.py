"""What one image costs a method, in multiply-adds: counted operation by operation while it answers."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mingle_edge.comparison.batches import fresh_batch
from mingle_edge.comparison.method import ContinualMethod


@torch.inference_mode()
def multiply_adds(method: ContinualMethod, images: Tensor, task: str) -> float:
    """Return the multiply-adds of PyTorch's matrix products for one of the images `[n, 3, H, W]`, task not told; their mean.

    Each image is answered twice and counted the second time, when towers that a method makes for it are there. Products outside
    PyTorch, those of a router in numpy, are not counted: of features by tasks, they are few.
    """
    counts = []
    for image in images:
        method.answer(fresh_batch(image[None], task))
        # The one form of attention whose products are counted on every device.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            method.answer(fresh_batch(image[None], task))
        counts.append(counter.get_total_flops() / 2)
    return fmean(counts)
