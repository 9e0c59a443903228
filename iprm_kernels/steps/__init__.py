"""The steps of the recurrence, forward and backward, over the cores of any backend (mechanism.md, "One step").

One room per stage, each a class whose `forward(t, ...)` and `backward(t, ...)` stand beside each other; `walk.py` goes
through the steps. A backend gives the cores and the products of rows with a weight.

The forward is plain functions of tensors, nothing in place: over the eager cores autograd and torch.func see through
it. The eager and the Triton backend walk here; the compiled ones do so in C++ (csrc/recurrence), room by room the same,
and are tested against it.
"""
