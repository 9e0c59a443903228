"""How PyTorch multiplies float32, asked in the way that its version answers.

Since torch 2.9 there are two sets of switches, and reading the older one raises once the newer one has been set.
"""

from __future__ import annotations

from typing import Any

import torch


def float32_products(device_type: str) -> str:
    """ "ieee" where a product of float32 matrices rounds no operand on this type of device ("cuda" or "cpu"), "tf32" or
    "bf16" where it may round them to that."""
    backend: Any = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        found = backend.matmul.fp32_precision
        return "ieee" if found == "none" else found
    if device_type == "cuda":
        return "tf32" if backend.matmul.allow_tf32 else "ieee"
    return {"highest": "ieee", "high": "tf32", "medium": "bf16"}[torch.get_float32_matmul_precision()]
