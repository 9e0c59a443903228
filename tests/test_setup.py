"""The build: without a compiler a pure-Python package that says why, or a failure when asked; never without torch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

import build_cuda  # noqa: E402

MISSING = "no-such-compiler"
SWITCHES = ("IPRM_BUILD_CPU", "IPRM_BUILD_CUDA")


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "setup.py", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_without_a_compiler_it_builds_pure_python_and_records_why(tmp_path):
    run = setup("build", "--build-base", str(tmp_path), "--build-lib", str(tmp_path / "lib"), CXX=MISSING)
    assert run.returncode == 0, run.stderr
    assert f"no C++ compiler: '{MISSING}' was not on PATH" in run.stderr
    record = json.loads((tmp_path / "lib/iprm_kernels/_build.json").read_text())
    for backend in ("cpu", "cuda"):
        assert record[backend]["extension"] is False
        assert record[backend]["lost"] is True
        assert MISSING in record[backend]["reason"]
    assert (tmp_path / "lib/iprm/fast.py").exists()
    assert not list((tmp_path / "lib").rglob("*.so"))


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_build_that_was_asked_for_fails_loudly(switch):
    run = setup("--name", CXX=MISSING, **{switch: "1"})
    assert run.returncode != 0
    assert f"{switch}=1, but no C++ compiler: '{MISSING}'" in run.stderr


@pytest.mark.parametrize("value", ["yes", "", "2"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_an_unknown_switch_is_refused(switch, value):
    run = setup("--name", **{switch: value})
    assert run.returncode != 0
    assert f"{switch}: expected auto, 0 or 1, got {value!r}" in run.stderr


def without_torch(folder: Path) -> dict[str, str]:
    """Variables under which torch cannot be imported."""
    (folder / "torch.py").write_text("raise ImportError('no torch here')")
    return {"PYTHONPATH": str(folder)}


def test_a_build_without_torch_fails_and_says_what_to_do(tmp_path):
    run = setup("--name", **without_torch(tmp_path))
    assert run.returncode != 0
    assert "(ImportError: no torch here): install torch first" in run.stderr


def test_a_source_distribution_needs_no_torch(tmp_path):
    run = setup("-q", "sdist", "--help", IPRM_BUILD_CPU="1", **without_torch(tmp_path))
    assert run.returncode == 0, run.stderr
    assert not run.stderr


def test_a_build_that_was_switched_off_is_not_recorded_as_lost(tmp_path):
    off = dict.fromkeys(SWITCHES, "0")
    run = setup("build", "--build-base", str(tmp_path), "--build-lib", str(tmp_path / "lib"), **off)
    assert run.returncode == 0, run.stderr
    record = json.loads((tmp_path / "lib/iprm_kernels/_build.json").read_text())
    assert [record[backend]["lost"] for backend in ("cpu", "cuda")] == [False, False]


@pytest.fixture
def backend(monkeypatch):
    """A fresh build_backend, whose additions to the path end with the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("fresh_build_backend", ROOT / "build_backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_isolation_hides_is_found_and_what_it_shows_is_not(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    paths = backend.installed_path()
    assert str(tmp_path) not in paths
    assert str(Path(torch.__file__).parents[1]) in paths


def test_torch_is_required_where_it_is_not_seen(backend, monkeypatch):
    assert backend.get_requires_for_build_wheel() == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend.get_requires_for_build_wheel() == backend.get_requires_for_build_editable() == ["torch"]
    assert backend.get_requires_for_build_sdist() == []
    for switch in SWITCHES:
        monkeypatch.setenv(switch, "0")
    assert backend.get_requires_for_build_wheel() == []


@pytest.mark.parametrize("switch", SWITCHES)
def test_nothing_is_built_when_switched_off(switch):
    run = setup("--name", **{switch: "0"})
    assert run.returncode == 0
    assert f"the package was built with {switch}=0" in run.stderr


def test_cuda_without_nvcc_fails_loudly_when_asked(tmp_path):
    run = setup("--name", IPRM_BUILD_CUDA="1", CUDA_HOME=str(tmp_path))
    assert run.returncode != 0
    if torch.version.cuda is None:
        assert f"IPRM_BUILD_CUDA=1, but torch {torch.__version__} was built without CUDA" in run.stderr
    else:
        assert f"IPRM_BUILD_CUDA=1, but no nvcc was found: not at {tmp_path}" in run.stderr


def toolkit(folder: Path, version: str, known: str) -> Path:
    """A folder with a program that answers as nvcc does."""
    program = folder / "bin/nvcc"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"""#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {version.rpartition(".")[0]}, V{version}" ;;
--list-gpu-code) printf '{known}' ;;
--dryrun) echo '#$ TOP={folder}/bin/..' >&2 ;;
esac
"""
    )
    program.chmod(0o755)
    return folder


@pytest.fixture
def with_toolkit(monkeypatch, tmp_path):
    """build_cuda beside a toolkit of this version that knows these architectures."""

    def made(version: str, known: str):
        for function in (build_cuda.home, build_cuda.output):
            function.cache_clear()
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path, version, known)))
        return build_cuda

    yield made
    for function in (build_cuda.home, build_cuda.output):
        function.cache_clear()


def test_the_default_is_trimmed_to_what_nvcc_knows(with_toolkit):
    build = with_toolkit("11.8.89", r"sm_80\nsm_86\nsm_90\n")
    assert build.nvcc_version() == "11.8.89"
    assert build.targets() == ["sm_80", "sm_90", "compute_90"]


def test_the_default_has_the_intermediate_code_of_the_last(with_toolkit):
    build = with_toolkit("13.0.88", r"sm_75\nsm_80\nsm_90\nsm_100\nsm_120\ncompute_120\n")
    assert build.targets() == ["sm_80", "sm_90", "sm_100", "compute_100"]
    assert [build.code_flag(target) for target in build.targets()[2:]] == [
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]


def test_an_nvcc_that_is_too_old_is_named(with_toolkit):
    build = with_toolkit("10.2.89", r"sm_70\nsm_75\n")
    with pytest.raises(build.Obstacle, match=r"need compute capability 8.0 or more, which nvcc 10.2.89 does not"):
        build.targets()


def test_the_list_of_architectures_is_honoured_but_for_what_is_too_old(with_toolkit, monkeypatch):
    build = with_toolkit("13.0.88", r"sm_75\nsm_80\nsm_90\n")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 8.6;9.0+PTX")
    assert sorted(build.targets()) == ["compute_90", "sm_86", "sm_90"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    with pytest.raises(build.Obstacle, match=r"need compute capability 8.0 or more, which TORCH_CUDA_ARCH_LIST='7.5'"):
        build.targets()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Voodoo")
    with pytest.raises(build.Obstacle, match=r"TORCH_CUDA_ARCH_LIST='Voodoo': .*Voodoo"):
        build.targets()


@pytest.mark.parametrize(
    ("cuda", "said"), [("12.4", "nvcc is of CUDA 13.0.88 and torch .* of CUDA 12.4"), (None, "without CUDA")]
)
def test_versions_that_do_not_match_are_named(with_toolkit, monkeypatch, cuda, said):
    build = with_toolkit("13.0.88", r"sm_80\n")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(build.Obstacle, match=said):
        build.check_versions()


@pytest.mark.parametrize("cuda", ["13.0", "13.2"])
def test_versions_of_one_major_number_match(with_toolkit, monkeypatch, cuda):
    build = with_toolkit("13.0.88", r"sm_80\n")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    build.check_versions()


def test_a_script_that_calls_nvcc_is_seen_through(monkeypatch, tmp_path, with_toolkit):
    """What is on PATH may be elsewhere than the headers."""
    build = with_toolkit("13.0.88", r"sm_80\n")
    script = tmp_path / "elsewhere/nvcc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {tmp_path}/bin/nvcc "$@"\n')
    script.chmod(0o755)
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    assert build.home() == tmp_path


def test_an_nvcc_that_does_not_run_is_named(monkeypatch, tmp_path, with_toolkit):
    build = with_toolkit("13.0.88", r"sm_80\n")
    (tmp_path / "bin/nvcc").write_text("#!/bin/sh\necho its toolkit is gone >&2; exit 1\n")
    with pytest.raises(build.Obstacle, match=r"bin/nvcc.* exit status 1.* its toolkit is gone"):
        build.home()


def test_everything_that_is_compiled_is_in_the_source_distribution():
    listed = (ROOT / "MANIFEST.in").read_text()
    assert {path.suffix for path in (ROOT / "csrc").rglob("*.*")} <= {
        "." + word[2:] for word in listed.split() if word.startswith("*.")
    }
    for name in ("build_backend.py", "build_cuda.py"):
        assert name in listed
