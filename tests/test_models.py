"""Networks: the parameter counts of the literature, and which layers train."""

import pytest
import torch
from torch import nn

from wbcli import models

COUNTS = {  # (network, classes): parameters, from the method's sources
    ("resnet34", 100): 21_328_292,
    ("resnet32", 100): 470_004,
    ("resnet32x4", 100): 7_409_316,
    ("resnet20", 10): 269_722,
}


@pytest.mark.parametrize(("arch", "num_classes"), COUNTS)
def test_parameter_counts(arch, num_classes):
    network = models.build(arch, num_classes)
    assert models.num_parameters(network) == COUNTS[arch, num_classes]


@pytest.mark.parametrize(
    ("arch", "image", "features"),
    [
        ("resnet8", (1, 8, 8), 64),
        ("resnet20", (1, 28, 28), 64),
        ("resnet32x4", (3, 32, 32), 256),
        ("resnet34", (3, 32, 32), 512),
    ],
)
def test_features_and_logits(arch, image, features):
    network = models.build(arch, 7, image[0]).eval()
    images = torch.randn(2, *image)
    maps = network.backbone(images)
    assert maps.shape == (2, features)
    expected = maps @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), expected)


def test_shortcuts_without_parameters_subsample_and_pad_with_zeros():
    block = models._Block(2, 4, stride=2).eval()
    with torch.no_grad():
        block.conv2.weight.zero_()  # the residual branch is silent: the shortcut is all there is
    images = torch.rand(1, 2, 4, 4)
    out = block(images)
    torch.testing.assert_close(out[:, :2], images[:, :, ::2, ::2])
    assert out[:, 2:].abs().sum() == 0


def test_a_bottleneck_stands_between_features_and_classifier():
    network = models.build("resnet8", 10, 1, bottleneck=2)
    assert network.classifier.weight.shape == (10, 2)
    assert network.backbone(torch.randn(3, 1, 8, 8)).shape == (3, 2)


def test_seeds_decide_the_initial_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return models.build("resnet8", 10, 1).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_released_init_is_the_default_of_a_convolution():
    """nn.Conv2d's default is uniform in ±1/√fan_in = ±1/√27; He's normal has a longer tail."""
    bound = 27**-0.5
    torch.manual_seed(0)
    released = models.build("resnet34", 100, init="conv-default").backbone.conv1.weight
    ours = models.build("resnet34", 100).backbone.conv1.weight
    assert released.abs().max() <= bound
    assert ours.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("count", "trained"),
    [
        (1, ["classifier"]),
        (2, ["classifier", "backbone.blocks.8.conv2", "backbone.blocks.8.bn2"]),
        (
            5,
            ["classifier"]
            + [
                f"backbone.blocks.{block}.{layer}"
                for block in (8, 7)
                for layer in ("conv2", "bn2", "conv1", "bn1")
            ],
        ),
    ],
)
def test_last_layers_are_counted_from_the_output_with_their_batch_norms(count, trained):
    network = models.build("resnet20", 10, 1)
    layers = models.last_layers(network, count)
    assert len(layers) == count
    parameters = models.freeze_all_but(network, layers)
    names = {name.rsplit(".", 1)[0] for name, p in network.named_parameters() if p.requires_grad}
    assert names == set(trained)
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters() if p.requires_grad}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_only_frozen_batch_norms_obey_the_mode(mode):
    network = models.build("resnet20", 10, 1)
    models.freeze_all_but(network, models.last_layers(network, 2))
    models.set_training_mode(network, mode)
    training = {n: m.training for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert training.pop("backbone.blocks.8.bn2") is True
    assert set(training.values()) == {mode == "train"}


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose one of resnet8, resnet20"):
        models.build("vgg", 10)


def test_init_takes_weights_of_ours_and_of_torchvision(tmp_path):
    source = models.build("resnet50", 5)
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pth"
    torch.save({"model": source.state_dict()}, ours)
    plain = {k.removeprefix("backbone."): v for k, v in source.state_dict().items()}
    plain = {k.replace("classifier.", "fc."): v for k, v in plain.items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in plain.items()}}, theirs)
    for path in (ours, theirs):
        network = models.build("resnet50", 5)
        models.load_init(network, path)
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in source.state_dict().items())
    other = models.build("resnet50", 7)
    fresh = other.classifier.weight.clone()
    models.load_init(other, ours)
    assert torch.equal(other.classifier.weight, fresh), "of another width: it starts afresh"
    assert torch.equal(other.backbone.conv1.weight, source.backbone.conv1.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected weights, as safetensors or a state dict of torch.save, and cannot read"),
        (b"hello", "expected weights, as safetensors or a state dict of torch.save"),
        ({"model": {"a": 1}}, r"cannot read them \(it holds more than tensors\)"),
        ({"a": torch.zeros(1)}, "its weights are of another network"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_init_refuses_what_is_no_weights_of_the_network(tmp_path, content, message, suffix):
    path = tmp_path / f"file{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif suffix == ".pt":
        torch.save(content, path)
    else:
        pytest.skip("safetensors hold tensors only")
    with pytest.raises(ValueError, match=message):
        models.load_init(models.build("resnet8", 5), path)


def test_a_file_that_cannot_be_taken_leaves_no_run(wbcli, tmp_path):
    (tmp_path / "no.pt").write_bytes(b"no")
    result = wbcli("stage1", "digitslt", "--init", tmp_path / "no.pt")
    assert result.code == 2
    assert result.err.startswith(f"Error: --init {tmp_path / 'no.pt'}: expected weights")
    assert not (tmp_path / "runs").exists()
