"""Networks of torchvision and timm at the command line, from a folder of pictures to a file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_folder
from models.small import VIT, shrink
from wbcli.models import networks
from wbcli.runs.run import Run

timm = pytest.importorskip("timm")
COUNTS = {"ant": 9, "bee": 5, "cat": 3}
SHORT = ("--epochs", "2", "--batch-size", "8")
HALF, IMAGENET = [0.5] * 3, [0.485, 0.456, 0.406]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture
def own(tmp_path):
    return write_folder(tmp_path / "own", COUNTS, test=2, val=2)


@pytest.fixture
def weights(tmp_path) -> Path:
    """Of a network of timm, in 7 classes, as its trainings save them."""
    torch.manual_seed(7)
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "a.pth")
    return tmp_path / "a.pth"


def run_of(result) -> Run:
    assert result.code == 0, result.err
    return Run(Path("runs") / result.json["run"])


@pytest.mark.parametrize(
    ("arch", "mean", "interpolation", "fraction"),
    [
        ("timm:test_resnet", HALF, "bilinear", 0.95),
        ("timm:test_vit", HALF, "bicubic", 0.95),
        (VIT, IMAGENET, "bilinear", 0.875),
    ],
)
def test_from_pictures_to_a_file(wbcli, own, arch, mean, interpolation, fraction):
    given = ("--arch", arch, "--image-size", "32", "--name", "first", "--json")
    result = wbcli("stage1", own, *given, *SHORT)
    assert f"network: {arch}, for which its library has pictures 32×32, {interpolation}, crop " in (
        result.err
    )
    record = run_of(result).record()
    assert (record["arch"], record["image_size"], record["mean"]) == (arch, 32, mean)
    assert (record["interpolation"], record["crop_fraction"]) == (interpolation, fraction)
    assert set(record["versions"]) == {"wbcli", "python", "torch", arch.partition(":")[0]}

    second = run_of(wbcli("stage2", "first", *SHORT, "--json"))
    keys = ("arch", "mean", "std", "interpolation", "crop_fraction", "image_size")
    assert [second.record()[key] for key in keys] == [record[key] for key in keys]
    assert wbcli("eval", second.name, "--json").json["num_images"] == 6

    check_prediction(wbcli, second, interpolation, fraction)
    for form in ("safetensors", "torch", "onnx"):
        if form == "onnx":
            pytest.importorskip("onnxscript")
            pytest.importorskip("onnxruntime")
        exported = wbcli("export", second.name, "--format", form, "--json")
        assert exported.code == 0, exported.err
        assert exported.json["max_difference"] < 1e-4


def check_prediction(wbcli, run: Run, interpolation: str, fraction: float) -> None:
    """`predict` shows the network what the run recorded: by hand, from the picture on."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("one.png")
    side = 40 * fraction
    box = ((60 - side) / 2, (40 - side) / 2, (60 + side) / 2, (40 + side) / 2)
    resample = Image.Resampling[interpolation.upper()]
    seen = np.array(Image.fromarray(pixels).resize((32, 32), resample, box))
    mean, std = (torch.tensor(run.record()[key]) for key in ("mean", "std"))
    images = ((torch.from_numpy(seen) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = run.network(list(COUNTS)).eval()(images)[0]
    said = wbcli("predict", run.name, "one.png", "--json").json
    if said["temperature"]:
        logits = torch.softmax(logits / said["temperature"], 0)
    for entry in said["images"][0]["top"]:
        found = entry.get("probability", entry.get("score"))
        assert found == pytest.approx(logits[entry["class"]].item(), abs=1e-4)


def test_tune_searches_on_the_features_of_such_a_network(wbcli, own):
    pytest.importorskip("optuna")
    given = ("--arch", "timm:test_vit", "--image-size", "32", "--name", "first")
    assert wbcli("stage1", own, *given, *SHORT).code == 0
    found = wbcli("tune", "stage2", "first", "--trials", "2", "--epochs", "1", "--json")
    assert found.code == 0, found.err
    assert len(found.json["trials"]) == 2
    given = ("--arch", "timm:test_vit", "--image-size", "32", "--freeze", "backbone")
    found = wbcli("tune", "stage1", own, *given, *SHORT, "--trials", "1", "--json")
    assert found.code == 0, found.err
    assert list(found.json["best"]["params"]) == ["wd"]


def test_the_size_of_the_network_is_taken_unless_one_is_given(wbcli, own):
    for arch, size in (("timm:test_vit", 160), ("torchvision:efficientnet_b1", 240)):
        shown = wbcli("stage1", own, "--arch", arch, "--dry-run", "--json")
        assert (shown.json["image_size"], shown.json["arch"]) == (size, arch)
    assert wbcli("stage1", own, "--dry-run", "--json").json["mean"] is None


def test_images_in_memory_keep_their_size_and_grey_ones_their_normalisation(wbcli):
    given = ("--arch", "timm:test_resnet", "--epochs", "1", "--batch-size", "64", "--json")
    record = run_of(wbcli("stage1", "digitslt", *given)).record()
    keys = ("image_size", "mean", "std", "interpolation", "crop_fraction")
    assert [record[key] for key in keys] == [None] * 5
    result = wbcli("stage1", "digitslt", "--arch", VIT)
    assert result.code == 2
    assert "three channels, those of timm any number" in result.err


def test_a_frozen_backbone_stays_and_its_head_trains_on_cached_features(
    wbcli, own, weights, monkeypatch
):
    seen = []
    build = networks.build

    def counting(*args, **options):
        network = build(*args, **options)
        network.backbone.register_forward_hook(lambda module, args, out: seen.append(len(out)))
        return network

    monkeypatch.setattr(networks, "build", counting)
    given = ("--arch", "timm:test_resnet", "--image-size", "32", "--init", weights)
    run = run_of(wbcli("stage1", own, *given, "--freeze", "backbone", *SHORT, "--json"))
    state, theirs = run.load_weights(), torch.load(weights)
    for key, value in theirs.items():
        if not key.startswith("fc."):
            assert torch.equal(state[f"backbone.{key}"], value), key
    record = run.record()
    assert (record["freeze"], record["views"], record["backbone_lr_factor"]) == ("backbone", 1, 1)
    assert sum(seen) == 17 + 6 + 6, "each picture once, whatever the number of epochs"


@pytest.mark.parametrize("method", ["wd-fr-etf", "deconfound", "ldam", "ssp"])
def test_every_method_trains_on_a_backbone_that_stands_still(wbcli, method):
    """Also one that looks at images, or at the features that its network gives with the logits."""
    given = ("--arch", "resnet8", "--freeze", "backbone", "--batch-size", "64", "--epochs", "1")
    result = wbcli("stage1", "digitslt", *given, "--method", method, "--name", "it")
    assert result.code == 0, result.err
    torch.manual_seed(0)
    fresh = networks.build("resnet8", 10, 1).backbone.state_dict()
    weights = Run(Path("runs/it")).load_weights()
    for key, value in fresh.items():
        assert torch.equal(weights[f"backbone.{key}"], value), key


def test_a_frozen_network_that_starts_at_random_is_told(wbcli):
    given = ("--arch", "timm:test_resnet", "--freeze", "backbone", "--epochs", "1")
    result = wbcli("stage1", "digitslt", *given)
    assert result.code == 0
    assert "--freeze backbone: the network starts at random, and stays so" in result.err


def test_the_recipe_for_finetuning_is_taken_with_pretrained_weights(wbcli, own, monkeypatch):
    given = ("--arch", "timm:test_resnet", "--image-size", "32", "--dry-run", "--json")
    shown = wbcli("stage1", own, *given, "--pretrained").json
    assert (shown["recipe"], shown["backbone_lr_factor"], shown["epochs"]) == ("finetune", 0.1, 30)
    assert wbcli("stage1", own, *given).json["recipe"] == "paper"
    assert wbcli("stage1", own, *given, "--pretrained", "--recipe", "paper").json["recipe"] == (
        "paper"
    )
    started = []
    monkeypatch.setattr("wbcli.models.init.load_pretrained", lambda net: started.append(net.origin))
    given = ("--arch", "timm:test_resnet", "--image-size", "32", "--name", "first", *SHORT)
    assert wbcli("stage1", own, *given, "--pretrained").code == 0
    assert {origin.arch for origin in started} == {"timm:test_resnet"}
    second = run_of(wbcli("stage2", "first", *SHORT, "--json")).record()
    assert (second["recipe"], second["pretrained"]) == ("finetune", False)


def test_without_a_network_there_are_no_weights_and_no_run(wbcli, own, monkeypatch):
    from timm.models import _hub

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(_hub, "hf_hub_download", no_network)
    given = ("--arch", "timm:test_vit", "--image-size", "32", "--pretrained")
    result = wbcli("stage1", own, *given, *SHORT)
    assert (result.code, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith("Error: --pretrained: timm's weights of test_vit cannot be had from its")
    assert last.endswith("; or name any file of weights with --init")
    assert not list(Path("runs").glob("own*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--arch resnet51", "or torchvision:NAME or timm:NAME, got 'resnet51'"),
        ("--arch timm:a/b", "or torchvision:NAME or timm:NAME, got 'timm:a/b'"),
        ("--arch timm:none_such", "timm has no classifier of that name"),
        (
            "--arch resnet8 --pretrained",
            "--pretrained: weights come from a library, resnet8 is a network of ours; take --arch",
        ),
        (
            "--arch timm:test_vit --pretrained --init a.pth",
            "--pretrained and --init exclude each other",
        ),
        (
            "--freeze backbone --bottleneck 2",
            "--freeze backbone: leave out --bottleneck, it stands before",
        ),
        (
            "--freeze backbone --backbone-lr-factor 0.1",
            "leave out --backbone-lr-factor, the backbone does not train then",
        ),
        ("--views 2", "--views is for a network that stands still: give --freeze backbone"),
        ("--cache bf16", "--cache is for a network that stands still: give --freeze backbone"),
        ("--backbone-lr-factor 0", "--backbone-lr-factor must be a finite number above 0"),
        (
            "--optimizer adamw --lr 1e-3",
            "--optimizer adamw: give --wd, too, the recipe's are of SGD (lr and wd: 1e-4 and 0.05",
        ),
    ],
)
def test_what_is_refused(wbcli, weights, line, message):
    arch = [] if "--arch" in line else ["--arch", "resnet8"]
    result = wbcli("stage1", "digitslt", *line.split(), *arch)
    assert (result.code, result.out) == (2, "")
    assert message in result.err and result.err.count("\n") == 1


def test_a_study_of_more_layers_is_refused_before_it_trains(wbcli):
    result = wbcli("reproduce", "ablation", "--arch", "timm:test_resnet", "--epochs", "1")
    assert (result.code, result.out) == (2, "")
    assert "ablation trains the last two and five layers, which are known of our own" in result.err
    assert not Path("runs").exists()


def test_more_layers_are_refused_on_networks_that_are_not_ours(wbcli):
    given = ("--arch", "timm:test_resnet", "--epochs", "1", "--name", "first")
    assert wbcli("stage1", "digitslt", *given).code == 0
    result = wbcli("stage2", "first", "--layers", "2")
    assert result.code == 2
    assert result.err.startswith(
        "Error: --layers 2: which layers of timm:test_resnet are the last ones is known of our own "
        "networks only; take --layers 1"
    )
    assert json.loads(wbcli("stage2", "first", "--layers", "1", "--dry-run", "--json").out)
