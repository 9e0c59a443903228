"""Every kernel compiles for every architecture within its limits: shared memory, spills, products once, tensor cores.

A part of the matrix; all of it is `python -m benchmarks.ahead_of_time`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os

import pytest
import torch

pytest.importorskip("triton.language")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from benchmarks import ahead_of_time, machine_code
from iprm_kernels.backends.triton import configs
from iprm_kernels.backends.triton.launch import KERNELS

PADDED = [
    (90, "bfloat16", 37), (100, "float32", 37), (80, "float16", 96), (100, "bfloat16", 192), (90, "float32", 200),
    (80, "bfloat16", 320), (90, "bfloat16", 384), (100, "float16", 384),
]  # fmt: skip


def first(*args, **options) -> ahead_of_time.Case:
    """A kernel at its fixed choice."""
    return next(iter(ahead_of_time.cases_of(*args, **options)))


def chosen() -> list[ahead_of_time.Case]:
    """Every entry at R = 256 in bfloat16 on sm_90, and the costliest activation; of the chains the fixed choice at
    other widths, on the other architectures and in float32, and what differs on cards with 99 KB of shared memory. Much
    else is compiled by test_launch.py."""
    found = []
    for kernel, function in KERNELS.items():
        found += ahead_of_time.cases_of(kernel, 90, "bfloat16", 256)
        if "ACTIVATION" in function.arg_names:
            found.append(first(kernel, 90, "bfloat16", 256, activation="gelu"))
    for kernel in configs.CHAINS:
        found += [first(kernel, *point) for point in PADDED]
        found += [first(kernel, architecture, "bfloat16", 256) for architecture in (80, 100)]
        for architecture in (80, 90, 100):
            found += [first(kernel, architecture, "bfloat16", width) for width in (128, 512)]
            found += [first(kernel, architecture, dtype, 256) for dtype in ("float32", "tf32")]
        for architecture in (86, 89, 120):
            found += [first(kernel, architecture, "bfloat16", width) for width in (384, 512)]
        found += [first(kernel, 120, dtype, 256) for dtype in ("float32", "float16")]
    found += [first("logits", 90, "bfloat16", width) for width in (768, 1024)]
    found.append(first("logits", 120, "bfloat16", 1024))
    for kernel in ("products", "d_tokens"):
        found += ahead_of_time.cases_of(kernel, 120, "bfloat16", 256, on=False)
    return found + chosen_of_amd()


def chosen_of_amd() -> list[ahead_of_time.Case]:
    """Every kernel at its fixed choice, alternately for the two architectures; of the chains and of attention also in
    float32, of the chains at other widths. All of it is compiled by the whole command alone."""
    found = []
    for kernel, architecture in zip(KERNELS, itertools.cycle(AMD)):
        found.append(first(kernel, architecture, "bfloat16", 256))
        if "PRECISION" in KERNELS[kernel].arg_names:
            found.append(first(kernel, architecture, "float32", 256))
    for kernel in configs.CHAINS:
        for point in (("gfx942", "bfloat16", 512), ("gfx942", "float32", 512), ("gfx950", "float16", 37)):
            found.append(first(kernel, *point))
    return found


weighed = pytest.mark.skipif(not ahead_of_time.WEIGHED, reason="what this Triton spills is no fault")
AMD = ("gfx942", "gfx950")
amd = pytest.mark.skipif(bool(ahead_of_time.obstacle("gfx942")), reason=str(ahead_of_time.obstacle("gfx942")))


def parameters(cases: list[ahead_of_time.Case]) -> list:
    """The cases, those for AMD's cards skipped where nothing can be compiled for them."""
    return [pytest.param(case, marks=amd if case.amd else (), id=case.label.replace(" ", "-")) for case in cases]


@pytest.mark.parametrize("case", parameters(chosen()))
def test_compiles_within_the_limits(case):
    assert not ahead_of_time.compiled(case).faults


@pytest.mark.parametrize("kernel", configs.CHAINS)
@pytest.mark.parametrize("point", [(80, "bfloat16", 256), (90, "bfloat16", 256), (90, "bfloat16", 512)], ids=str)
def test_the_fixed_choice_spills_little_with_every_triton(kernel, point):
    """Also with those whose spills are no fault."""
    assert not ahead_of_time.compiled(first(kernel, *point)).spills_much


@pytest.mark.parametrize("weighed", [True, False])
def test_spills_are_a_fault_from_a_version_on(weighed, monkeypatch):
    monkeypatch.setattr(ahead_of_time, "WEIGHED", weighed)
    slope, chain = first("slope", 90, "bfloat16", 256), first("logits", 90, "bfloat16", 256)
    few = dict.fromkeys((*machine_code.OPCODES, *machine_code.DEPTHS), 0) | {
        "STL": 2,
        "HGMMA": 1,
        "spills outside": 2,
    }
    assert bool(ahead_of_time.Result(slope, 0, 255, few).faults) == weighed
    assert not ahead_of_time.Result(chain, 0, 255, few).faults  # beside two weights
    many = few | {"spills in a loop": 10**4}
    assert bool(ahead_of_time.Result(chain, 0, 255, many).faults) == weighed
    on_amd, none = first("logits", "gfx942", "float32", 256), {"LDL": 0, "STL": 0}
    assert bool(ahead_of_time.Result(on_amd, 0, 255, none | {"MFMA": 1}, scratch=4).faults) == weighed
    assert ahead_of_time.Result(on_amd, 0, 255, none | {"FFMA": 1}).faults == ["no tensor cores"]


def test_what_amds_code_says_of_itself():
    text = (
        " scratch_store_dword off, v1, s0\n v_mfma_f32_32x32x8_bf16 a[0:15]\n scratch_load_dwordx4 v[0:3], off\n"
        " v_pk_fma_f32 v[0:1]\n v_fmac_f32_e32 v0\n    .private_segment_fixed_size: 20\n    .vgpr_count:     256\n"
    )
    assert machine_code.read_amd(text) == (256, {"MFMA": 1, "FFMA": 2, "LDL": 1, "STL": 1}, 20)


def test_where_amds_linker_is_missing(monkeypatch, capsys):
    """As with Triton 3.4: said, and not counted."""

    def missing():
        raise Exception("no linker")

    monkeypatch.setattr(ahead_of_time.HIPBackend, "path_to_rocm_lld", missing, raising=False)
    assert ahead_of_time.obstacle(90) is None
    monkeypatch.setattr("sys.argv", ["ahead_of_time", "--arch", "gfx942"])
    assert ahead_of_time.main() == 1
    assert capsys.readouterr().out == "not compiled for gfx942: no linker\n0 compiled, 0 with a fault\n"


@pytest.mark.parametrize(
    ("architecture", "R", "tile", "fault"),
    [
        (90, 256, configs.Tile(64, 64, 0, 1, 8, 2), "2.00 products for one"),
        (80, 256, configs.Tile(64, 32, 0, 1, 8, 2), "2.00 products for one"),
        (80, 512, configs.Tile(32, 32, 0, 1, 8, 2), "2.00 products for one"),
        pytest.param(90, 512, configs.Tile(64, 32, 0, 1, 4, 2), "spill instructions move", marks=weighed),
        (86, 256, configs.Tile(128, 64, 0, 4, 8, 2), "bytes of shared memory"),
        pytest.param("gfx942", 256, configs.Tile(64, 64, 64, 2, 8, 2), "2.00 products for one", marks=amd),
        pytest.param("gfx942", 512, configs.Tile(128, 32, 0, 2, 4, 2), "bytes a lane", marks=[amd, weighed]),
        pytest.param("gfx942", 512, configs.Tile(128, 16, 0, 2, 8, 2), "bytes of shared memory", marks=amd),
    ],
    ids=str,
)
def test_faults_are_found(architecture, R, tile, fault):
    """Of 8 warps on 64 pairs, or on 32; of a tile that needs more than there is of registers, and of shared memory."""
    case = first("recompute", architecture, "bfloat16", R)
    found = ahead_of_time.compiled(dataclasses.replace(case, entry=tile.entry("recompute")))
    assert any(fault in one for one in found.faults), found


SPILLS = """
        /*0000*/                   STL [R1], R2 ;
.L_x_0:
        /*0010*/                   LDL R2, [R1] ;
.L_x_1:
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0030*/                   STL.64 [R1], R0 ;
        /*0040*/              @!P0 BRA `(.L_x_1) ;
        /*0050*/                   LDL R0, [R1] ;
        /*0060*/               @P1 CALL.REL.NOINC `(.L_x_2) ;
        /*0070*/                   BRA `(.L_x_0) ;
.L_x_2:
        /*0080*/                   LDL R4, [R1] ;
        /*0090*/               @P2 BRA `(.L_x_2) ;
        /*00a0*/                   EXIT ;
"""


def test_spills_count_by_the_loops_they_stand_in():
    """The outer loop is left by a call; the last multiplies nothing."""
    assert machine_code.spills(SPILLS) == [2, 2, 1]


@pytest.mark.parametrize(
    ("layout", "result", "times"),
    [
        ("nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = [16, 8]}>", "64x64", 2),
        ("nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [2, 4], instrShape = [16, 8]}>", "32x32", 1),
        (
            "nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = [16, 64, 16]}>",
            "128x64",
            1,
        ),
        (
            "blocked<{sizePerThread = [2, 2], threadsPerWarp = [4, 8], warpsPerCTA = [4, 2], order = [1, 0]}>",
            "32x8",
            4,
        ),
        ("amd_mfma<{version = 3, warpsPerCTA = [4, 2], instrShape = [32, 32, 8], isTransposed = true}>", "64x64", 2),
        ("amd_mfma<{version = 3, isTransposed = true, warpsPerCTA = [2, 2], instrShape = [32, 32]}>", "64x64", 1),
    ],
)
def test_products_are_counted_by_the_layout(layout, result, times):
    dot = f"%1 = tt.dot %a, %b, %c : tensor<64x16xf16> * tensor<16x64xf16> -> tensor<{result}xf32, #mma>"
    assert machine_code.executed(f"#mma = #ttg.{layout}\nmodule {{\n  {dot}\n}}\n") == times


def test_the_family_of_every_architecture():
    families = {80: 80, 86: 86, 87: 80, 89: 86, 90: 90, 100: 100, 103: 100, 110: 100, 120: 86, 121: 86}
    assert {architecture: configs.family(architecture) for architecture in families} == families


@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_with_absent_pointers_and_aligned_sizes(kernel):
    assert not ahead_of_time.compiled(first(kernel, 80, "bfloat16", 256, on=False)).faults


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if ahead_of_time.variants(KERNELS[kernel])])
def test_compiles_for_a_single_token(kernel):
    """N = 1, or a count of 1, which a launch turns into a constant."""
    case = first(kernel, 80, "bfloat16", 256)
    ones = dict.fromkeys(ahead_of_time.variants(case.function), 1)
    ahead_of_time.compiled(dataclasses.replace(case, others=case.others | ones))


def test_only_what_masks_vectors_is_specialised():
    found = {name: ahead_of_time.variants(function) for name, function in KERNELS.items()}
    attention = {name: ["N"] for name in ("products", "pool", "d_tokens", "d_query", "slope")}
    assert {name: integers for name, integers in found.items() if integers} == attention | {"dropout": ["count"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_lists(kernel, dtype):
    """Blocks are powers of two, no entry comes twice, and few tokens get the fixed choice."""
    for architecture, width in itertools.product(
        (80, 86, 90, 100, 103, 120, "gfx942", "gfx1250"), (1, 16, 37, 128, 256, 300, 512)
    ):
        entries = configs.entries(kernel, architecture, dtype, width, 6, 196)
        assert len(set(entries)) == len(entries) <= 3
        blocks = [value for entry in entries for name, value in entry.constants if value and name != "PARTS"]
        assert all(block & (block - 1) == 0 for block in blocks)
        if kernel in ("products", "pool", "d_tokens", "d_query"):
            assert len(configs.entries(kernel, architecture, dtype, width, 6, configs.FEW)) == 1
