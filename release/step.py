"""Trains one step on the CPU and prints the backend that ran it: what an installation is tried with."""

from __future__ import annotations

import torch

from iprm import IPRMConfig
from iprm.fast import IPRM
from iprm_kernels import reasons

model = IPRM(IPRMConfig(dim=16, num_ops=2, num_steps=2, window=1, reduction=2))
language, summary, visual = torch.randn(2, 3, 16), torch.randn(2, 16), torch.randn(2, 5, 16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = model(language, summary, visual).square().mean()
loss.backward()
optimizer.step()
print(next(backend for backend, why in reasons("cpu").items() if why is None))
