"""The smallest dtype that holds the values of a tensor."""

import torch
from torch import Tensor


def narrowest(values: Tensor) -> Tensor:
    """The tensor in bfloat16 or float16 if that changes no value, otherwise in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        if values.dtype == dtype or torch.equal(values.to(dtype).float(), values.float()):
            return values.to(dtype)
    return values.float()
