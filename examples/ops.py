"""The bare ops in a module of one's own: learned queries read the question, and then look at the picture.

    python examples/ops.py

One step of IPRM without its memory: the attention cores are `iprm_kernels`, the linear maps those of PyTorch. The same
module with the cores written out makes tensors of (B, K, L, D) and (B, K, N, R), and stores them for the backward pass.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear

from iprm_kernels import execution, formation, reasons


class Look(nn.Module):
    """K queries, formation, execution.

    Args:
        dim: D.  hidden: R, the width of the network of each pair.  num_queries: K.
    """

    def __init__(self, dim: int, hidden: int, num_queries: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, dim))
        self.read = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.keys = nn.Linear(dim, hidden)
        self.scale, self.choose = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.first, self.second = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, hidden)
        self.score = nn.Parameter(torch.randn(hidden) / hidden**0.5)

    def forward(self, language: Tensor, visual: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D), (B, N, D), (B, N) bool with true = keep -> what was found (B, K, D), attention (B, K, N)."""
        queries = self.queries.expand(len(language), -1, -1)
        z, _ = formation(queries, language, self.read)
        v = self.keys(visual)
        # first([g ⊙ v ; v]) in two parts: only the first depends on the query, the second is made once for all.
        C1a, C1b = self.first.weight.chunk(2, dim=1)
        u = linear(v, C1b, self.first.bias)
        C2, c2 = self.second.weight, self.second.bias
        return execution(v, u, self.scale(z), self.choose(z), C1a, C2, c2, self.score, visual, mask)

    def written_out(self, language: Tensor, visual: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, in plain PyTorch."""
        z = ((self.queries[:, None] * language[:, None]) @ self.read).softmax(-1) @ language
        v = self.keys(visual)[:, None]
        pairs = torch.cat([self.scale(z)[:, :, None] * v, v.expand(-1, z.shape[1], -1, -1)], -1)
        y = elu(self.second(elu(self.first(pairs))) * self.choose(z)[:, :, None])
        attention = (y @ self.score).masked_fill(~mask[:, None], -1e30).softmax(-1)
        return attention @ visual, attention


def main() -> None:
    """Compare both forms in float64, results and gradients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    torch.manual_seed(0)
    B, K, L, N, D, R = 4, 6, 12, 49, 64, 32
    look = Look(D, R, K).double()
    inputs = torch.randn(B, L, D).double(), torch.randn(B, N, D).double(), torch.rand(B, N) > 0.3
    for backend, reason in reasons("cpu", torch.float64, K=K, N=N, R=R).items():
        print(f"{backend:8} {reason or 'can run it'}")
    both = []
    for form in (look, look.written_out):
        look.zero_grad()
        found, attention = form(*inputs)
        found.square().sum().backward()
        both.append({"found": found, "attention": attention} | {n: p.grad.clone() for n, p in look.named_parameters()})
    fused, plain = both
    for name, want in plain.items():
        difference = (fused[name] - want).norm() / want.norm()
        print(f"{name:16} {tuple(want.shape)!s:12} differs by {difference:.0e}")


if __name__ == "__main__":
    main()
