"""setup.py: what it builds on which machine, and what the compiler says of the CUDA kernels."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wbcli

pytest.importorskip("setuptools")
ROOT = Path(__file__).parent.parent.parent
ARCHS = ("80", "90")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


@pytest.fixture
def setup(monkeypatch):
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("WBCLI_CUDA", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    return module


def hide_nvcc(setup, monkeypatch):
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)


def hide_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")


def test_without_a_compiler_it_is_pure_python(setup, monkeypatch):
    hide_compiler(monkeypatch)
    extensions, record = setup.plan()
    assert extensions == []
    assert record["cpu"] == "not built: the C++ compiler /nowhere/c++: No such file or directory"
    assert record["cuda"] == record["cpu"]


def test_without_nvcc_there_are_cpu_kernels(setup, monkeypatch):
    hide_nvcc(setup, monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    extensions, record = setup.plan()
    assert [extension.name for extension in extensions] == ["wbcli.balance._cpu"]
    wanted = "not built: no nvcc on PATH or in /usr/local"
    assert record == {"cpu": None, "cuda": wanted, "cuda_version": None}


def test_a_torch_without_cuda_gets_cpu_kernels(setup, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    extensions, record = setup.plan()
    assert [extension.name for extension in extensions] == ["wbcli.balance._cpu"]
    assert record["cuda"] == f"not built: torch {torch.__version__} has no CUDA"


def test_a_wish_decides_instead_of_a_guess(setup, monkeypatch):
    monkeypatch.setenv("WBCLI_CUDA", "0")
    assert setup.plan()[1]["cuda"] == "not built: WBCLI_CUDA=0"
    monkeypatch.setenv("WBCLI_CUDA", "1")
    hide_nvcc(setup, monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(SystemExit, match="WBCLI_CUDA=1, but: no nvcc on PATH or in /usr/local"):
        setup.plan()
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    with pytest.raises(SystemExit, match="WBCLI_CUDA=1, but: no nvcc in /nowhere/bin"):
        setup.plan()
    monkeypatch.setenv("WBCLI_CUDA", "yes")
    with pytest.raises(SystemExit, match="WBCLI_CUDA must be 0 or 1, got 'yes'"):
        setup.plan()


@needs_nvcc
def test_another_major_version_of_cuda_is_not_mixed_in(setup, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "9.2")
    _, record = setup.plan()
    assert re.fullmatch(r"not built: nvcc is of CUDA \d+\.\d+, torch of CUDA 9\.2", record["cuda"])


@needs_nvcc
def test_the_toolkit_behind_a_wrapper_is_found(setup, monkeypatch, tmp_path):
    home, version = setup.find_toolkit()
    wrapper = tmp_path / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert setup.find_toolkit() == (home, version)
    assert (home / "include" / "cuda_runtime.h").is_file()


def test_a_toolkit_without_libraries_takes_those_of_torch(setup, monkeypatch, tmp_path):
    packages = tmp_path / "site-packages"
    monkeypatch.setattr(torch, "__file__", str(packages / "torch" / "__init__.py"))
    with pytest.raises(setup.Unbuildable, match="has no libcudart, nor has torch"):
        setup.find_runtime(tmp_path / "toolkit")
    shared = packages / "nvidia" / "cu13" / "lib"
    shared.mkdir(parents=True)
    (shared / "libcudart.so.13").touch()
    assert setup.find_runtime(tmp_path / "toolkit") == [f"-L{shared}", "-l:libcudart.so.13"]
    static = tmp_path / "toolkit" / "lib64"
    static.mkdir(parents=True)
    (static / "libcudart_static.a").touch()
    assert setup.find_runtime(tmp_path / "toolkit")[:2] == [f"-L{static}", "-lcudart_static"]


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_cpu_kernels_do_not_rely_on_what_the_compiler_inlines(setup, tmp_path):
    """Without optimisation, a function that misses its instruction set shows as wrong numbers."""
    package = Path(wbcli.__file__).parent
    shutil.copytree(package, tmp_path / "wbcli", ignore=shutil.ignore_patterns("_cpu*.so"))
    folder = Path(torch.__file__).parent
    command = ["c++", *setup.CXX_FLAGS, "-O0", "-std=c++20", "-fPIC", "-shared", "-w"]
    command += [*sorted((ROOT / "csrc" / "cpu").glob("*.cpp")), f"-I{folder / 'include'}"]
    command += [
        f"-L{folder / 'lib'}",
        "-ltorch_cpu",
        "-o",
        tmp_path / "wbcli" / "balance" / "_cpu.abi3.so",
    ]
    subprocess.run(list(map(str, command)), check=True)
    tests = [ROOT / "tests" / "balance" / name for name in ("test_ops.py", "test_kernels.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
        + ["-k", "not two_to_the_31 and not compiles and not opcheck"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@needs_nvcc
def test_the_cuda_kernels_compile_and_do_not_spill_registers(setup, tmp_path):
    home, _ = setup.find_toolkit()
    include = Path(torch.__file__).parent / "include"
    command = [home / "bin" / "nvcc", *setup.NVCC_FLAGS, "-std=c++20", f"-I{include}"]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]
    command += ["-Xptxas=-v", "-c", ROOT / "csrc" / "cuda" / "ops.cu", "-o", tmp_path / "ops.o"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entry = r"Compiling entry function '(\S+)' for 'sm_(\d+)'.*?(\d+) bytes spill stores"
    kernels = re.findall(entry, done.stderr, re.DOTALL)
    assert {arch for _, arch, _ in kernels} == set(ARCHS)
    for name in ("rows_in_registers", "rows_in_two_passes", "norms_of_rows"):
        assert any(name in kernel for kernel, _, _ in kernels)
    assert [kernel for kernel in kernels if kernel[2] != "0"] == []
