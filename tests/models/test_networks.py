"""Networks: the parameter counts of the literature, and which layers train."""

import copy
import io
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from wbcli.files import weights
from wbcli.models import backbones, init, networks
from wbcli.models.layers import freeze_all_but, last_layers, num_parameters, set_training_mode

COUNTS = {  # (network, classes): parameters, from the method's sources
    ("resnet34", 100): 21_328_292,
    ("resnet32", 100): 470_004,
    ("resnet32x4", 100): 7_409_316,
    ("resnet20", 10): 269_722,
}


@pytest.mark.parametrize(("arch", "num_classes"), COUNTS)
def test_parameter_counts(arch, num_classes):
    network = networks.build(arch, num_classes)
    assert num_parameters(network) == COUNTS[arch, num_classes]


def test_logits_do_not_tie_in_bf16():
    """100 and 100.25 are one number in bf16, whose steps are 0.5 there."""
    network = networks.Network(nn.Identity(), 2, 2)
    with torch.no_grad():
        network.classifier.weight.copy_(torch.tensor([[100.0, 0.0], [100.0, 0.25]]))
        network.classifier.bias.zero_()
    features = torch.ones(1, 2)
    expected = torch.tensor([[100.0, 100.25]])
    with torch.autocast("cpu", torch.bfloat16):
        logits, of_bf16 = network(features), network(features.bfloat16())
    assert torch.equal(logits, expected)
    assert torch.equal(of_bf16, expected)


def test_the_classifier_learns_in_float32_within_autocast():
    network = networks.Network(nn.Linear(3, 4), 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        features = network.backbone(torch.randn(5, 3))
        loss = network.classifier(features).sum()
    loss.backward()
    assert features.dtype == torch.bfloat16
    expected = features.detach().float().sum(0)
    torch.testing.assert_close(
        network.classifier.weight.grad, expected.expand(2, 4), atol=0, rtol=1e-6
    )


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
    network = networks.build(arch, 7, image[0]).eval()
    images = torch.randn(2, *image)
    maps = network.backbone(images)
    assert maps.shape == (2, features)
    expected = maps @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(images), expected)


def test_shortcuts_without_parameters_subsample_and_pad_with_zeros():
    block = backbones._Block(2, 4, stride=2).eval()
    with torch.no_grad():
        block.conv2.weight.zero_()  # the residual branch is silent: the shortcut is all there is
    images = torch.rand(1, 2, 4, 4)
    out = block(images)
    torch.testing.assert_close(out[:, :2], images[:, :, ::2, ::2])
    assert out[:, 2:].abs().sum() == 0


def test_a_bottleneck_stands_between_features_and_classifier():
    network = networks.build("resnet8", 10, 1, bottleneck=2)
    assert network.classifier.weight.shape == (10, 2)
    assert network.backbone(torch.randn(3, 1, 8, 8)).shape == (3, 2)


def test_seeds_decide_the_initial_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return networks.build("resnet8", 10, 1).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_released_init_is_the_default_of_a_convolution():
    """nn.Conv2d's default is uniform in ±1/√fan_in = ±1/√27; He's normal has a longer tail."""
    bound = 27**-0.5
    torch.manual_seed(0)
    released = networks.build("resnet34", 100, init="conv-default").backbone.conv1.weight
    ours = networks.build("resnet34", 100).backbone.conv1.weight
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
    network = networks.build("resnet20", 10, 1)
    layers = last_layers(network, count)
    assert len(layers) == count
    parameters = freeze_all_but(network, layers)
    names = {name.rsplit(".", 1)[0] for name, p in network.named_parameters() if p.requires_grad}
    assert names == set(trained)
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters() if p.requires_grad}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_only_frozen_batch_norms_obey_the_mode(mode):
    network = networks.build("resnet20", 10, 1)
    freeze_all_but(network, last_layers(network, 2))
    set_training_mode(network, mode)
    training = {n: m.training for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert training.pop("backbone.blocks.8.bn2") is True
    assert set(training.values()) == {mode == "train"}


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose one of resnet8, resnet20"):
        networks.build("vgg", 10)


def test_init_takes_weights_of_ours_and_of_torchvision(tmp_path):
    source = networks.build("resnet50", 5)
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pth"
    torch.save({"model": source.state_dict()}, ours)
    plain = {k.removeprefix("backbone."): v for k, v in source.state_dict().items()}
    plain = {k.replace("classifier.", "fc."): v for k, v in plain.items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in plain.items()}}, theirs)
    for path in (ours, theirs):
        network = networks.build("resnet50", 5)
        init.load_init(network, path)
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in source.state_dict().items())
    other = networks.build("resnet50", 7)
    fresh = other.classifier.weight.clone()
    init.load_init(other, ours)
    assert torch.equal(other.classifier.weight, fresh), "of another width: it starts afresh"
    assert torch.equal(other.backbone.conv1.weight, source.backbone.conv1.weight)


def plain(network: networks.Network, head: str = "fc.") -> dict:
    """Its weights under torchvision's names."""
    weights = {k.removeprefix("backbone."): v for k, v in network.state_dict().items()}
    return {k.replace("classifier.", head): v for k, v in weights.items()}


def with_prefix(prefix: str, weights: dict) -> dict:
    return {prefix + key: value for key, value in weights.items()}


def split_names(prefix: str, head: str, network: networks.Network) -> dict:
    """The backbone under the prefix, the classifier beside it under a name of its own."""
    weights = plain(network, "fc.").items()
    return {head + k[3:] if k.startswith("fc.") else prefix + k: v for k, v in weights}


NAMINGS = {  # who writes names like these
    "DataParallel": lambda net: with_prefix("module.", plain(net)),
    "Lightning": lambda net: with_prefix("model.", plain(net)),
    "torch.compile": lambda net: with_prefix("_orig_mod.", plain(net)),
    "all of them": lambda net: with_prefix("module._orig_mod.model.", plain(net)),
    "a whole network as backbone": lambda net: with_prefix("backbone.", plain(net)),
    "backbone and fc": lambda net: split_names("backbone.", "fc.", net),
    "those in Lightning": lambda net: split_names("model.backbone.", "model.fc.", net),
    "a compiled backbone": lambda net: split_names("backbone._orig_mod.", "fc.", net),
    "an encoder": lambda net: split_names("net.encoder.", "net.classifier.", net),
    "ours, compiled": lambda net: with_prefix("_orig_mod.", net.state_dict()),
}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_init_takes_weights_under_a_common_prefix(tmp_path, naming, wrapper):
    source, path = networks.build("resnet8", 5), tmp_path / "a.ckpt"
    named = NAMINGS[naming](source)
    torch.save({wrapper: named, "epoch": 3} if wrapper else named, path)
    network = networks.build("resnet8", 5)
    init.load_init(network, path)
    for key, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.backbone."])
@pytest.mark.parametrize("bottleneck", [None, 2])
def test_init_takes_a_backbone_alone_under_any_prefix(tmp_path, prefix, bottleneck):
    source = networks.build("resnet8", 5, bottleneck=bottleneck)
    torch.save(with_prefix(prefix, source.backbone.state_dict()), tmp_path / "a.pt")
    network = networks.build("resnet8", 5, bottleneck=bottleneck)
    fresh = network.classifier.weight.clone()
    init.load_init(network, tmp_path / "a.pt")
    assert torch.equal(network.classifier.weight, fresh)
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[key], value), key


@pytest.mark.parametrize("naming", NAMINGS)
def test_init_leaves_out_what_stands_beside_the_network(tmp_path, naming):
    """As the weights of a loss in a checkpoint of Lightning."""
    source, network = networks.build("resnet8", 5), networks.build("resnet8", 5)
    beside = {"criterion.weight": torch.ones(5), "criterion.epoch": torch.ones(())}
    torch.save({"state_dict": NAMINGS[naming](source) | beside}, tmp_path / "a.ckpt")
    assert init.load_init(network, tmp_path / "a.ckpt") == list(beside)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in source.state_dict().items())


def test_init_does_not_choose_between_two_networks(tmp_path):
    source = networks.build("resnet8", 5)
    two = with_prefix("model.", plain(source)) | with_prefix("ema.", plain(source))
    torch.save(two, tmp_path / "a.pt")
    assert refusal(tmp_path / "a.pt") == (
        "several networks in it fit, of model.blocks.0.bn1.bias and ema.blocks.0.bn1.bias: "
        "save one alone"
    )


def test_init_guesses_nothing_beyond_a_prefix(tmp_path):
    source = networks.build("resnet8", 5)
    both = plain(source) | {"classifier.weight": torch.ones(5, 64)}
    torch.save(both, tmp_path / "b.pt")
    assert "backbone.fc.weight has no place (and 1 more)" in refusal(tmp_path / "b.pt")


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_init_names_the_arch_of_small_resnets_of_imagenet(tmp_path, name, prefix):
    theirs = getattr(torchvision.models, name)(num_classes=3).state_dict()
    torch.save(with_prefix(prefix, theirs), tmp_path / "a.pth")
    for arch in ("resnet34", "resnet50", "resnet8"):
        assert refusal(tmp_path / "a.pth", networks.build(arch, 3)) == (
            f"its weights are of torchvision's {name}, whose first convolution is 7×7: take "
            f"--arch torchvision:{name}"
        )


def refusal(path, network=None):
    """What `load_init` says of a file, after its name."""
    with pytest.raises(ValueError) as caught:
        init.load_init(network or networks.build("resnet8", 5), path)
    start = f"--init {path}: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


EXPECTED = "expected weights, as safetensors or a state dict of torch.save; "


@pytest.mark.parametrize("content", [b"", b"hello"])
@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (".pt", "it is damaged, or not a file of torch.save"),
        (".safetensors", "it is damaged, or no safetensors file (Error while deserializing header"),
    ],
)
def test_init_refuses_what_is_no_file_of_weights(tmp_path, content, suffix, message):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    assert refusal(path).startswith(EXPECTED + message)


SAVE = "save the state dict alone, torch.save(model.state_dict(), FILE)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            nn.Linear(2, 2),
            "it holds more than plain tensors (torch.nn.modules.linear.Linear): " + SAVE,
        ),
        (
            {"a": os.system},
            "it holds more than plain tensors (posix.system): " + SAVE,
        ),
        ({"model": {"a": 1}}, "more than names and tensors, 'a' is of the type int: " + SAVE),
        ({1: torch.zeros(1)}, "more than names and tensors, 1 is of the type Tensor: " + SAVE),
        ([1], "it holds a list instead of names and tensors: " + SAVE),
        ({"a": torch.eye(2).to_sparse()}, "plain tensors (torch._utils._rebuild_sparse_tensor)"),
        ({"a": torch.zeros(2, device="meta")}, "(torch._utils._rebuild_meta_tensor_no_storage)"),
        ({"a": bytearray(9)}, "it holds more than plain tensors (__builtin__.bytearray): " + SAVE),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_init_refuses_more_than_tensors_and_says_what_to_save(tmp_path, content, message, new):
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    said = refusal(tmp_path / "a.pt")
    assert said.startswith(EXPECTED) and message in said
    assert "weights_only" not in said and "\n" not in said


HOSTILE = {  # pickles that torch.load(weights_only=True) takes
    "a key that takes for ever to hash": b"\x80\2})q\0" + b"h\0\x86q\0" * 60 + b"K\1s.",
    "two gigabytes of nothing": b"\x80\2}U\1ac__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85Rs.",
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("attack", HOSTILE)
def test_init_refuses_what_never_ends_or_fills_the_memory(tmp_path, attack, old):
    path = tmp_path / "a.pt"
    if old:
        first = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join([*first, HOSTILE[attack], pickle.dumps([], 2)]))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", HOSTILE[attack])
            archive.writestr("a/version", "3\n")
    said = {"a": "a dict whose keys are no names or numbers", "t": "(__builtin__.bytearray)"}
    assert refusal(path).endswith(f"{said[attack[0]]}: {SAVE}")


class Rebuilt:
    """A tensor as PyTorch before 0.4 saved it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        t = self.tensor
        return torch._utils._rebuild_tensor, (t.storage(), 0, tuple(t.shape), t.stride())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("new", [True, False])
def test_init_takes_what_trainings_of_others_save(tmp_path, new):
    network = networks.build("resnet8", 5)
    own = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    content = {
        "state_dict": {f"module.{key}": Rebuilt(value) for key, value in own.items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "seen": {1, 2, "a"},
        "where": torch.device("cpu"),
        "type": torch.float32,
        "best": {None: 1, 0.5: 2, True: b"x"},
    }
    torch.save(content, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=new)
    fresh = networks.build("resnet8", 5)
    init.load_init(fresh, tmp_path / "a.pth.tar")
    assert all(torch.equal(value, own[key]) for key, value in fresh.state_dict().items())


@pytest.mark.parametrize("new", [True, False])
def test_init_of_a_protocol_that_pytorch_cannot_check(tmp_path, new):
    path, state = tmp_path / "a.pt", networks.build("resnet8", 5).state_dict()
    torch.save(state, path, pickle_protocol=4, _use_new_zipfile_serialization=new)
    assert "it was saved with pickle protocol 4, which PyTorch cannot check" in refusal(path)


def test_init_says_what_does_not_fit_and_what_to_do(tmp_path):
    path, advice = tmp_path / "a.pt", "; name theirs with --arch (and --bottleneck)"
    state = networks.build("resnet8", 5).state_dict()
    first = "backbone.conv1.weight"
    del state["backbone.bn1.bias"]
    state |= {"backbone.more": torch.zeros(1), first: torch.zeros(2, 3, 1, 1)}
    another = "its weights are of another network: "
    torch.save(state, path)
    assert refusal(path) == another + f"backbone.bn1.bias is not there (and 2 more){advice}"
    state["backbone.bn1.bias"] = torch.zeros(16)
    torch.save(state, path)
    assert refusal(path) == (
        f"{another}{first} is [2, 3, 1, 1], expected [16, 3, 3, 3] (and 1 more){advice}"
    )
    state[first] = torch.zeros(16, 3, 3, 3, dtype=torch.complex64)
    torch.save(state, path)
    assert refusal(path) == (
        f"{another}{first} is torch.complex64, expected torch.float32 (and 1 more){advice}"
    )
    state[first] = torch.zeros(16, 3, 3, 3)
    torch.save(state, path)
    assert refusal(path) == f"{another}backbone.more has no place{advice}"


def test_init_takes_old_files_and_half_precision(tmp_path):
    """Files of torch before 1.6 are no zip archives; before 0.4 batch norms did not count."""
    source = networks.build("resnet8", 5)
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    state["classifier.bias"] = state["classifier.bias"].bfloat16()
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    network = networks.build("resnet8", 5)
    init.load_init(network, tmp_path / "old.pt")
    assert torch.equal(network.backbone.conv1.weight, source.backbone.conv1.weight)
    assert torch.equal(network.classifier.bias, source.classifier.bias.bfloat16().float())


def rezipped(source, target, **how):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:
        for part in old.namelist():
            new.writestr(part, old.read(part))


def test_an_archive_is_no_larger_than_its_file(tmp_path):
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "right.pt")
    weights.check_archive(tmp_path / "right.pt")
    bomb = tmp_path / "bomb.pt"
    rezipped(tmp_path / "right.pt", bomb, compression=zipfile.ZIP_DEFLATED)
    message = "is compressed, which torch.save never does"
    assert refusal(bomb) == f"{EXPECTED}its part 'right/data.pkl' {message}"
    rezipped(tmp_path / "right.pt", bomb)
    weights.check_archive(bomb)
    with zipfile.ZipFile(bomb, "a") as archive:  # many names for the same bytes
        largest = max(archive.filelist, key=lambda part: part.file_size)
        for i in range(3):
            again = copy.copy(largest)
            again.filename = f"{i}"
            archive.filelist.append(again)
        archive._didModify = True
    assert re.fullmatch(
        r"its parts claim 1,60\d,\d{3} bytes, the file has 40\d,\d{3}",
        refusal(bomb).removeprefix(EXPECTED),
    )
    bomb.write_bytes((tmp_path / "right.pt").read_bytes()[:-100])
    assert refusal(bomb) == EXPECTED + "its zip archive is damaged (File is not a zip file)"


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_weights_are_refused_or_read_whatever_byte_it_is(tmp_path, kind):
    """A byte of the header is another: nothing but a ValueError of one line may come of it."""
    state = {"backbone.a": torch.arange(3.0), "classifier.b": torch.arange(2)}
    buffer = io.BytesIO()
    if kind == "safetensors":
        buffer.write(safetensors.torch.save(state))
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    whole = buffer.getvalue()
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    network = networks.build("resnet8", 5)
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(whole), 150):
        changed = bytearray(whole)
        changed[place] ^= int(generator.integers(1, 256))
        path.write_bytes(changed)
        assert "\n" not in refusal(path, network)
        path.write_bytes(whole[:place])
        assert "\n" not in refusal(path, network)


def test_init_of_what_is_no_file_does_not_wait_for_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    assert (
        refusal(tmp_path / "pipe.pt")
        == EXPECTED + "expected a regular file, got a folder, pipe, socket or device"
    )


def test_a_file_that_cannot_be_taken_leaves_no_run(wbcli, tmp_path):
    (tmp_path / "no.pt").write_bytes(b"no")
    result = wbcli("stage1", "digitslt", "--init", tmp_path / "no.pt")
    assert result.code == 2
    assert result.err.startswith(f"Error: --init {tmp_path / 'no.pt'}: expected weights")
    assert not (tmp_path / "runs").exists()
