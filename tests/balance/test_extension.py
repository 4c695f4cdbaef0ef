"""With the compiled kernels, without them, and on every instruction set: the same results."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wbcli.balance import extension

TESTS = Path(__file__).parent
OP_TESTS = [TESTS / name for name in ("test_ops.py", "test_kernels.py", "test_optim.py")]
OP_TESTS += ["-p", "no:cacheprovider", "-k", "not two_to_the_31"]  # once is enough for 4 GB
compiled = pytest.mark.skipif(
    extension.kernels("cpu") == "torch", reason=f"no compiled kernels: {extension.MISSING['cpu']}"
)


@pytest.fixture
def pure(tmp_path) -> Path:
    """A folder with a copy of the package that has no compiled kernels."""
    ignored = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    shutil.copytree(Path(extension.__file__).parent.parent, tmp_path / "wbcli", ignore=ignored)
    return tmp_path


def python(*arguments, path: Path | None = None, **variables) -> subprocess.CompletedProcess:
    environment = os.environ | variables | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def test_the_tests_of_the_ops_pass_without_the_extension(pure):
    done = python("-m", "pytest", *OP_TESTS, path=pure)
    assert done.returncode == 0, done.stdout
    where = python("-c", "import wbcli; print(wbcli.__file__)", path=pure)
    assert where.stdout.startswith(str(pure)), "the copy was tested"


@compiled
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_tests_of_the_ops_pass_on_lesser_instruction_sets(capability):
    done = python("-m", "pytest", *OP_TESTS, ATEN_CPU_CAPABILITY=capability)
    assert done.returncode == 0, done.stdout


STEPS = """
import sys, torch
from wbcli import SGD, row_norms
torch.manual_seed(0)
layer = torch.nn.Linear(300, 20)
optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, max_norm=0.5)
for _ in range(20):
    optimizer.zero_grad()
    layer(torch.randn(8, 300)).square().mean().backward()
    optimizer.step()
torch.save(layer.weight.data, sys.argv[1])
"""


@compiled
def test_training_without_the_extension_gives_the_same_weights(pure):
    weights = []
    for name, path in [("with", None), ("without", pure)]:
        done = python("-c", STEPS, pure / name, path=path)
        assert done.returncode == 0, done.stderr
        weights.append(torch.load(pure / name))
    torch.testing.assert_close(*weights)
    assert torch.linalg.vector_norm(weights[0], dim=1).amax() > 0.499, "MaxNorm never bound"


def test_doctor_says_that_the_extension_is_missing(pure):
    found = json.loads(python("-m", "wbcli", "doctor", "--json", path=pure).stdout)["extension"]
    assert (found["built"], found["cpu"], found["cuda"]) == (False, False, False)
    reason = f"not built: no library in {pure / 'wbcli' / 'balance'} (pip install makes it)"
    assert found["reason"] == f"cpu: {reason}; cuda: {reason}"


def test_doctor_repeats_why_the_build_left_something_out(pure):
    record = {"cpu": None, "cuda": "not built: nvcc: no; really", "cuda_version": None}
    (pure / "wbcli" / "balance" / "_build.json").write_text(json.dumps(record))
    table = python("-m", "wbcli", "doctor", path=pure).stdout
    assert "kernels, cuda   not built: nvcc: no; really\n" in table


def test_a_damaged_build_record_is_named(pure):
    (pure / "wbcli" / "balance" / "_build.json").write_text("{")
    done = python("-m", "wbcli", "doctor", path=pure)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: {pure / 'wbcli' / 'balance' / '_build.json'} is damaged (" in done.stderr


def test_an_extension_that_is_there_and_broken_is_an_error(pure):
    broken = pure / "wbcli" / "balance" / "_cpu.abi3.so"
    broken.write_bytes(b"\x7fELF, but no further")
    done = python("-m", "wbcli", "doctor", path=pure)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: the compiled kernels {broken} cannot be loaded" in done.stderr
    assert "reinstall wbcli, or delete that file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_library_of_an_earlier_build_is_left_alone(monkeypatch, tmp_path):
    (tmp_path / "_cuda.abi3.so").touch()
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    reason = f"left by another build: {tmp_path / '_build.json'} does not know it"
    assert extension._reason_against("cuda") == reason


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ("13.2", ""),
        ("12.6", "built for CUDA 13.0, but torch 9.9 is for CUDA 12.6"),
        (None, "built for CUDA 13.0, but torch 9.9 has no CUDA"),
    ],
)
def test_cuda_kernels_are_left_alone_where_torch_has_another_cuda(
    monkeypatch, tmp_path, runs, reason
):
    (tmp_path / "_cuda.abi3.so").touch()
    (tmp_path / "_build.json").write_text(json.dumps({"cuda_version": "13.0"}))
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    monkeypatch.setattr(torch, "__version__", "9.9")
    monkeypatch.setattr(torch.version, "cuda", runs)
    assert extension._reason_against("cuda") == reason
