"""The device of a process and its arithmetic; GPUs are pretended where they can be."""

import pytest
import torch

from wbcli import device as devices
from wbcli.methods.losses import LOSSES


@pytest.fixture
def two_gpus(monkeypatch):
    """What torch is told to make the current GPU."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize(
    ("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_a_gpu_becomes_the_current_one(two_gpus, name, index):
    assert devices.resolve(name) == torch.device("cuda", index)
    assert two_gpus == [torch.device("cuda", index)]


def test_a_gpu_that_is_not_there_is_refused(two_gpus):
    with pytest.raises(ValueError, match="--device cuda:2: 2 GPUs are visible to torch"):
        devices.resolve("cuda:2")
    assert two_gpus == []


@pytest.mark.parametrize(("precision", "tf32"), [("tf32", True), ("fp32", False), ("bf16", False)])
def test_all_of_torchs_getters_agree_on_tf32(precision, tf32):
    devices.set_float32(precision)
    try:
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
    finally:
        devices.set_float32("fp32")


def test_the_loss_of_many_heads_has_a_deterministic_kernel_on_a_gpu():
    """`nll_loss2d` with a mean has none, and is what a mean over [B, K, M] would take."""
    logits, labels = torch.randn(5, 3, 2), torch.randint(3, (5,))
    terms = LOSSES["ce"].terms(logits, labels, None)
    assert terms.shape == (5, 2)
    for head in (0, 1):
        expected = torch.nn.functional.cross_entropy(logits[..., head], labels)
        torch.testing.assert_close(terms[:, head].mean(), expected)
