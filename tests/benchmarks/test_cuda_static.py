"""Every CUDA kernel compiles for every architecture without spills, and with tensor cores where it multiplies.

All of it as a table: `python -m benchmarks.cuda_static`.
"""

from __future__ import annotations

from collections import Counter

import pytest

import build_cuda
from benchmarks import cuda_static
from benchmarks.cuda_static import Kernel


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    """Those of the installed extension, which has every architecture, or for one if it must be compiled for this."""
    try:
        build_cuda.home()
        cuda_static.tool("nvdisasm")
        extension = cuda_static.built()
        if extension is not None and cuda_static.is_current(extension):
            return cuda_static.kernels_of(cuda_static.ARCHITECTURES, from_built=True)
        return cuda_static.kernels_of((80,))
    except (build_cuda.Obstacle, cuda_static.Missing) as error:
        pytest.skip(str(error))


def test_no_kernel_has_a_fault(kernels):
    assert kernels
    assert {f"{k.label} sm_{k.architecture}": k.faults for k in kernels if k.faults} == {}


def test_every_kernel_of_products_is_there(kernels):
    assert cuda_static.absent(kernels) == []


def test_wide_loads_are_used(kernels):
    """16 bytes at once where rows allow it: what is read through shared memory comes by asynchronous copies. A lane of
    `simple_backward` has four columns."""
    for kernel in kernels:
        narrow = kernel.name == "simple_backward_kernel" and kernel.dtype != "float32"
        assert kernel.loads.get("64" if narrow else "128"), kernel
        if kernel.name in cuda_static.PRODUCTS:
            assert kernel.loads.get("async 128"), kernel


NAMES = {
    "void iprm::cuda::(anonymous namespace)::logits_kernel<__half, 32>(iprm::cuda::Pairs, float*)": (
        "logits_kernel", ("__half", "32")
    ),
    "iprm::cuda::plain_kernel(float*)": ("plain_kernel", ()),
}  # fmt: skip


@pytest.mark.parametrize("demangled", NAMES)
def test_names_are_read(demangled):
    assert cuda_static.split_name(demangled) == NAMES[demangled]


CODE = """
\t.section\t.text._Z1a,"ax",@progbits
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @P1  LDG.E.U16.CONSTANT R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0040*/                   LDGSTS.E.BYPASS.128 [R9], desc[UR4][R2.64] ;
        /*0050*/             @!UP0 STL.64 [R1], R4 ;
\t.section\t.text._Z1b,"ax",@progbits
        /*0000*/                   HMMA.16816.F32.BF16 R4, R4, R8, R12 ;
"""


def test_instructions_are_counted():
    found = cuda_static.instructions(CODE)
    first = Kernel("logits_kernel", ("__half", "16"), 80, instructions=found["_Z1a"])
    assert first.loads == {"128": 1, "32": 1, "16": 1, "async 128": 1}
    assert first.faults == ["1 spill instructions", "no tensor cores"]
    second = Kernel("logits_kernel", ("__half", "16"), 80, instructions=found["_Z1b"])
    assert (second.tensor_cores, second.faults) == (1, [])


def test_other_kernels_need_no_tensor_cores():
    assert Kernel("pool_kernel", ("__half",), 80, instructions=Counter(FFMA=3)).faults == []
    assert Kernel("logits_kernel", ("float", "16"), 80, instructions=Counter(FFMA=3)).faults == []


def test_missing_kernels_are_named():
    kernels = [Kernel("logits_kernel", ("float", "16"), 80)]
    assert "logits_kernel float32 sm_80" not in cuda_static.absent(kernels)
    assert "logits_kernel bfloat16 sm_80" in cuda_static.absent(kernels)
