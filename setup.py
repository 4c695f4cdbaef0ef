"""Build the kernels of csrc/, as far as this machine can; what it cannot, `wbcli doctor` explains.

Two libraries in wbcli/balance: `_cpu` needs a C++ compiler, `_cuda` also nvcc and a torch of the
same CUDA major version. Without them the torch twins do the work. WBCLI_CUDA=0 leaves `_cuda` out;
WBCLI_CUDA=1 fails where it cannot be built. Both use LibTorch's stable ABI as of torch 2.10, so
a library serves any later torch. TORCH_CUDA_ARCH_LIST names the GPU architectures.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from glob import glob
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10
CXX_FLAGS = [STABLE_ABI, "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
CXX_FLAGS += ["-Wno-maybe-uninitialized"]  # GCC's own AVX-512 header sets off hundreds
NVCC_FLAGS = [STABLE_ABI, "-DUSE_CUDA", "-O3", "-Xcompiler=-fvisibility=hidden"]
DEFAULT_ARCHS = "7.5;8.0;9.0+PTX"  # where the build machine has no GPU to ask
CPP_PROBE = """
#ifndef __GNUC__
#error "expected GCC or Clang"
#endif
#include <torch/csrc/stable/ops.h>
#ifdef __x86_64__
#include <immintrin.h>
__attribute__((target("avx512f"))) __m512 twice(__m512 x) { return _mm512_add_ps(x, x); }
bool has() { return __builtin_cpu_supports("avx512vl"); }
#endif
"""
CUDA_PROBE = "__global__ void k() {}\nint run() { k<<<1, 1>>>(); return cudaGetLastError(); }\n"


class Unbuildable(Exception):
    """Why a library is left out."""


def attempt(command: list[str], what: str) -> str:
    """The output of `command`; its last line is the reason where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise Unbuildable(f"{what}: {error.strerror}") from error
    output = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in output.splitlines() if "error" in line.lower()]
        raise Unbuildable(f"{what}: {(lines or output.splitlines() or ['failed'])[0].strip()}")
    return output


def probe(suffix: str, code: str, command: list[str], what: str) -> str:
    """Compile and link `code` to a shared library: says more than any guess about a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"probe{suffix}"
        source.write_text(code)
        return attempt([*command, str(source), "-o", str(Path(folder) / "probe.so")], what)


def cpu_extension():
    try:
        from torch.utils.cpp_extension import CppExtension, get_cxx_compiler, include_paths
    except ImportError as error:
        raise Unbuildable(f"torch could not be imported during the build: {error}") from error
    cxx = get_cxx_compiler()
    flags = [
        "-std=c++20",
        "-shared",
        "-fPIC",
        STABLE_ABI,
        *(f"-I{path}" for path in include_paths()),
    ]
    probe(".cpp", CPP_PROBE, [*cxx.split(), *flags], f"the C++ compiler {cxx}")
    os.environ.setdefault("CC", cxx)  # links with it too, whatever Python was built with
    return CppExtension(
        "wbcli.balance._cpu",
        sorted(glob("csrc/cpu/*.cpp")),
        depends=glob("csrc/*.h") + glob("csrc/cpu/*.h") + glob("csrc/cpu/*.inl"),
        extra_compile_args=CXX_FLAGS,
        py_limited_api=True,
    )


def cuda_extension():
    import torch

    if torch.version.cuda is None:
        raise Unbuildable(f"torch {torch.__version__} has no CUDA")
    home, version = find_toolkit()
    if version.split(".")[0] != torch.version.cuda.split(".")[0]:
        raise Unbuildable(f"nvcc is of CUDA {version}, torch of CUDA {torch.version.cuda}")
    runtime = find_runtime(home)
    command = [str(home / "bin" / "nvcc"), "-shared", "-Xcompiler=-fPIC", "--cudart=none"]
    linker = ["-Xlinker=" + arg if arg.startswith("-l:") else arg for arg in runtime]
    probe(".cu", CUDA_PROBE, [*command, *linker], "nvcc")
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHS)
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(home)  # it has guessed, wrongly where nvcc is a wrapper
    extension = cpp_extension.CUDAExtension(
        "wbcli.balance._cuda",
        sorted(glob("csrc/cuda/*.cu")),
        depends=glob("csrc/*.h"),
        extra_compile_args={"nvcc": NVCC_FLAGS},
        extra_link_args=runtime,
        py_limited_api=True,
    )
    extension.libraries.remove("cudart")  # runtime has it
    return extension, version


def find_toolkit() -> tuple[Path, str]:
    """The folder of the CUDA toolkit and its version, as nvcc itself tells them."""
    wish = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [f"{wish}/bin/nvcc"] if wish else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    nvcc = next((path for path in map(shutil.which, candidates) if path), None)
    if nvcc is None:
        raise Unbuildable(f"no nvcc in {wish}/bin" if wish else "no nvcc on PATH or in /usr/local")
    dryrun = probe(".cu", "", [nvcc, "--dryrun", "-c"], nvcc)
    top = re.search(r"^#\$ TOP=(.*)$", dryrun, re.MULTILINE)
    home = Path(top[1].strip()).resolve() if top else Path(nvcc).resolve().parent.parent
    version = re.search(r"release (\d+\.\d+)", attempt([nvcc, "--version"], nvcc))
    if version is None:
        raise Unbuildable(f"{nvcc} --version does not name its release")
    return home, version[1]


def find_runtime(home: Path) -> list[str]:
    """Linker arguments for the CUDA runtime: static, so that nothing has to be found later.

    Some toolkits come without it, or without any: torch's own packages bring a shared one.
    """
    folders = [home / "lib64", home / "lib", *home.glob("targets/*/lib")]
    import torch

    packages = Path(torch.__file__).parent.parent / "nvidia"
    folders += [*packages.glob("cu*/lib"), *packages.glob("cuda_runtime/lib")]
    for folder in folders:
        if (folder / "libcudart_static.a").is_file():
            return [f"-L{folder}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    for folder in folders:
        for library in sorted(folder.glob("libcudart.so*")):
            return [f"-L{folder}", f"-l:{library.name}"]
    raise Unbuildable(f"the CUDA toolkit in {home} has no libcudart, nor has torch")


def plan() -> tuple[list, dict[str, str | None]]:
    """The extensions to build, and what `wbcli doctor` will say of those left out."""
    wish = os.environ.get("WBCLI_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"WBCLI_CUDA must be 0 or 1, got {wish!r}")
    extensions, record = [], {"cpu": None, "cuda": None, "cuda_version": None}
    try:
        extensions.append(cpu_extension())
    except Unbuildable as error:
        record["cpu"] = f"not built: {error}"
    try:
        if wish == "0":
            raise Unbuildable("WBCLI_CUDA=0")
        if not extensions:
            raise Unbuildable(record["cpu"].removeprefix("not built: "))
        extension, record["cuda_version"] = cuda_extension()
        extensions.append(extension)
    except Unbuildable as error:
        if wish == "1":
            raise SystemExit(f"WBCLI_CUDA=1, but: {error}") from error
        record["cuda"] = f"not built: {error}"
    return extensions, record


def main():
    os.chdir(ROOT)
    extensions, record = plan()

    class BuildPy(build_py):
        """Leaves the record beside the modules, and no library of an earlier build."""

        def run(self):
            super().run()
            place = ROOT if self.editable_mode else Path(self.build_lib)
            folder = place / "wbcli" / "balance"
            for library in [*folder.glob("_cpu*.so"), *folder.glob("_cuda*.so")]:
                library.unlink()
            (folder / "_build.json").write_text(json.dumps(record) + "\n")

    commands, options = {"build_py": BuildPy}, {}
    if extensions:
        from torch.utils.cpp_extension import BuildExtension

        commands["build_ext"] = BuildExtension
        options["bdist_wheel"] = {"py_limited_api": "cp311"}
    setup(ext_modules=extensions, cmdclass=commands, options=options)


if __name__ == "__main__":
    main()
