"""The dropout bits: the generator's published test vectors, frequencies, and every backend's equality with them."""

from __future__ import annotations

import pytest
import torch

import iprm_kernels
from iprm_kernels.dropout import Role, draw_seed, scaled_mask, stream_of
from iprm_kernels.philox import philox

# counter (4 words), key (2 words), output: the known-answer tests of Random123 for philox4x32, 10 rounds
ZEROS = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def plain_philox(key: list[int], counter: list[int]) -> list[int]:
    """Philox-4x32-10 in Python integers, straight from the paper."""
    word = 0xFFFFFFFF
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & word, (a >> 32) ^ counter[3] ^ key[1], a & word]
        key = [(key[0] + 0x9E3779B9) & word, (key[1] + 0xBB67AE85) & word]
    return counter


def test_published_vectors():
    ones = 0xFFFFFFFF
    assert plain_philox([0, 0], [0] * 4) == list(ZEROS)
    assert plain_philox([ones] * 2, [ones] * 4) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -1, -(2**63), 0x123456789ABCDEF])
@pytest.mark.parametrize(("stream", "block"), [(0, 0), (16 * 9 + 7, 12345), (2**32 - 1, 2**40 + 3)])
def test_generator_equals_the_paper(seed, stream, block):
    got = philox(torch.tensor([seed]), stream, torch.tensor([block]))[0].tolist()
    key = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    assert got == plain_philox(key, [block & 0xFFFFFFFF, block >> 32, stream, 0])


def test_mask_can_start_anywhere():
    seed = torch.tensor([42])
    whole = scaled_mask((50,), 0.4, seed, 7, torch.float32)
    for start, count in [(0, 50), (1, 3), (5, 20), (49, 1), (8, 8)]:
        assert torch.equal(scaled_mask((count,), 0.4, seed, 7, torch.float32, start), whole[start : start + count])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 7), (64, 33), (0, 4), (2, 1025)])
def test_every_backend_draws_the_defined_bits(shape, dtype, backend):
    x = torch.randn(shape).to(dtype).requires_grad_()
    seed = torch.tensor([0x7ABCDEF012345678])
    y = iprm_kernels.dropout(x, 0.3, seed, 77, backend=backend)
    acc = torch.promote_types(dtype, torch.float32)
    mask = scaled_mask(shape, 0.3, seed, 77, acc)
    assert torch.equal(y, (x.detach().to(acc) * mask).to(dtype))
    grad = torch.randn(shape).to(dtype)
    y.backward(grad)
    assert torch.equal(x.grad, (grad.to(acc) * mask).to(dtype))


def test_strided_input_is_indexed_by_its_shape(backend):
    x, seed = torch.randn(6, 10), torch.tensor([5])
    want = iprm_kernels.dropout(x.t().contiguous(), 0.5, seed, 1, backend=backend)
    assert torch.equal(iprm_kernels.dropout(x.t(), 0.5, seed, 1, backend=backend), want)
    assert torch.equal(iprm_kernels.dropout(x[:, ::2], 0.5, seed, 1, backend=backend),
                       iprm_kernels.dropout(x[:, ::2].contiguous(), 0.5, seed, 1, backend=backend))  # fmt: skip


@pytest.mark.parametrize("p", [0.05, 0.15, 0.5, 0.9])
def test_frequencies(p, backend):
    n = 200_000
    y = iprm_kernels.dropout(torch.ones(n), p, draw_seed("cpu"), stream_of(2, Role.PRODUCT), backend=backend)
    kept = (y != 0).float().mean().item()
    assert abs(kept - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - p)))


def test_streams_and_seeds_are_unrelated(backend):
    x, n = torch.ones(100_000), 100_000

    def kept(seed, stream):
        return iprm_kernels.dropout(x, 0.5, torch.tensor([seed]), stream, backend=backend) != 0

    masks = [kept(1, 0), kept(1, 1), kept(2, 0), kept(1 + 2**32, 0)]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs((one == other).float().mean().item() - 0.5) < 5 * 0.5 / n**0.5


def test_rate_zero_is_the_identity():
    x = torch.randn(3)
    assert iprm_kernels.dropout(x, 0.0, None, 0) is x


def test_roles_fit_a_step():
    assert len(Role) == max(Role) + 1 <= 16
    assert stream_of(3, Role.PRODUCT) == 3 * 16 + 7
