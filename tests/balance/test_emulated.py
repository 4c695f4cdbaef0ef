"""The CUDA kernels without a GPU: csrc/cuda/ops.cu on the machine of tests/emulator.

The tests of the ops run on the kernels as if they were those of CPU tensors, and generated cases
under AddressSanitizer and UBSan. WBCLI_PLANTED_FAULTS=1 plants faults into the kernels, each of
which has to be found: three minutes more.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wbcli
from emulator.translate import translate

TESTS = Path(__file__).parent
ROOT = TESTS.parent.parent
EMULATOR, CUDA = ROOT / "tests" / "emulator", ROOT / "csrc" / "cuda"
TORCH = Path(torch.__file__).parent
FLAGS = ["-std=c++20", "-march=native", "-ffp-contract=fast", "-w"]  # nvcc fuses products and sums
FLAGS += ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
FLAGS += [f"-I{folder}" for folder in (EMULATOR, CUDA, TORCH / "include")]
LINK = [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{TORCH / 'lib'}"]
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize=vptr"]
SANITIZE += ["-fno-sanitize-recover=undefined"]

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs x86-64"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(
        not (TORCH / "include/torch/csrc/stable/library.h").is_file(),
        reason="needs the headers of torch",
    ),
]


def compile_cases(folder: Path, code: str) -> subprocess.Popen:
    """Start to build `folder/cases` for the kernels `code`."""
    (folder / "ops.inc").write_text(translate(code, device=None))
    command = ["g++", *FLAGS, *SANITIZE, f"-I{folder}", EMULATOR / "cases.cpp"]
    return start([*command, *LINK, "-o", folder / "cases"])


def compile_library(folder: Path, code: str) -> subprocess.Popen:
    """Start to build `folder/wbcli`, a wbcli whose kernels for CPU tensors are those of `code`."""
    ignored = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    shutil.copytree(Path(wbcli.__file__).parent, folder / "wbcli", ignore=ignored)
    (folder / "ops.cpp").write_text(translate(code, device="CPU"))
    command = ["g++", *FLAGS, "-O2", "-fPIC", "-shared", "-fvisibility=hidden", folder / "ops.cpp"]
    return start([*command, *LINK, "-o", folder / "wbcli" / "balance" / "_cpu.abi3.so"])


def start(command: list) -> subprocess.Popen:
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the generated cases, and with a package that emulates."""
    folder, code = tmp_path_factory.mktemp("emulated"), (CUDA / "ops.cu").read_text()
    processes = [compile_cases(folder, code), compile_library(folder, code)]
    for process in processes:
        finish(process)
    return folder


def run_cases(folder: Path, count: int, seed: int, **emulator: object) -> subprocess.Popen:
    variables = {f"EMULATOR_{name.upper()}": str(value) for name, value in emulator.items()}
    os_variables = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.Popen(
        [folder / "cases", str(count), str(seed)],
        env=os_variables | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_tests_of_the_ops_pass(built):
    tests = [TESTS / name for name in ("test_ops.py", "test_kernels.py", "test_optim.py")]
    deselected = "not two_to_the_31 and not compiles and not opcheck"  # slow, not of the kernels
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", deselected, *tests]
    variables = os.environ | {"PYTHONPATH": str(built)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    emulates = "from wbcli.balance import extension as e; print(e.FOLDER, e.kernels('cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", emulates], env=variables, capture_output=True, text=True
    )
    assert done.stdout == f"{built / 'wbcli' / 'balance'} compiled\n", (
        "the emulated kernels were tested"
    )


def test_generated_cases_pass_in_any_order_of_threads_on_a_grid_of_any_size(built):
    runs = [
        run_cases(built, 80, seed=1),
        run_cases(built, 60, seed=2, order="reverse", grid=3, watch=1),
    ]
    for run in runs:
        assert " cases, " in finish(run)
    runs = [
        run_cases(built, 80, seed=3, order=7, grid=1),
        run_cases(built, 60, seed=4, order=5, grid=64, watch=1),
    ]
    for run in runs:
        assert " cases, " in finish(run)


GUARDED = "if (column < op.w.length) op.fetch"
COLUMN = "int64_t(item * GROUP + lane) * N;\n      "
SETTINGS = "const typename Op::Settings settings = op.begin(row);\n    typename"
ALIGNED = "reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride % N == 0"
FAULTS = {  # what is replaced, by what, and the report
    "no barrier before the next row": (
        "__syncthreads();  // the row before has been read",
        "",
        "a race on shared memory",
    ),
    "no barrier before the sums are read": (
        "sum;\n    __syncthreads();\n    sum = 0",
        "sum;\n    sum = 0",
        "shared memory is read that this block has not written",
    ),
    "half of the lanes are not summed": ("offset = WARP / 2", "offset = WARP / 4", "expected"),
    "a column too many": (GUARDED, GUARDED.replace("<", "<="), "AddressSanitizer"),
    "every address counts as aligned": (ALIGNED, "true", "is not aligned"),
    "strides are not looked at": (ALIGNED, ALIGNED.split(" &&")[0], "is not aligned"),
    "lanes without columns leave": (
        SETTINGS,
        "if (lane * N >= op.w.length) continue;\n    " + SETTINGS,
        "which has returned",
    ),
    "a grid takes one turn": ("row += num_groups", "row += num_groups << 40", "expected"),
    "rows inside their ball are written": (
        "if (!Op::DIRTY && factor == A(1)) continue;",
        "if (!Op::DIRTY && factor == A(1)) x[0][0] += A(0.001);",
        "a row with factor 1 has changed",
    ),
    "a word is fetched from the neighbour": (
        COLUMN + GUARDED,
        COLUMN.replace("lane", "(lane ^ 1)") + GUARDED,
        "a race on global memory",
    ),
    "a row is written by the neighbour": (
        "const auto words = load<N>(w + column);",
        "const auto words = load<N>(w + (column + N < op.w.length ? column + N : column));",
        "a race on global memory",
    ),
}


@pytest.mark.skipif(
    os.environ.get("WBCLI_PLANTED_FAULTS") != "1", reason="WBCLI_PLANTED_FAULTS=1 plants faults"
)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, tmp_path):
    correct, faulty, report = FAULTS[fault]
    code = (CUDA / "ops.cu").read_text()
    assert correct in code
    finish(compile_cases(tmp_path, code.replace(correct, faulty)))
    process = run_cases(tmp_path, 25, seed=1, order=5, grid=3, watch=1)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert report in output


def test_a_source_of_another_shape_is_not_half_translated():
    code = (CUDA / "ops.cu").read_text()
    with pytest.raises(ValueError, match="nothing matches 'kernel<<<"):
        translate(code.replace("kernel<<<", "launched<<<"), device="CPU")
