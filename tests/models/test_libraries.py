"""Networks of torchvision and timm: features, --init in every wrapping, --pretrained."""

import email.message
import hashlib
import http.server
import io
import threading
import urllib.error
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import hub, nn
from torchvision import models

from models.small import VIT, shrink
from wbcli.models import init, libraries, networks

timm = pytest.importorskip("timm")
SIZE, CLASSES = 32, 7
ARCHS = ("timm:test_resnet", "timm:test_vit", "timm:test_convnext", VIT)
ARCHS += ("torchvision:mobilenet_v3_small",)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)
    torch.manual_seed(0)


def of_library(arch: str, classes: int = CLASSES, size: int = SIZE) -> nn.Module:
    """The network as somebody without wbcli makes it, in evaluation mode."""
    library, name = arch.split(":")
    if library == "timm":
        sized = {"img_size": size} if "vit" in name else {}
        return timm.create_model(name, num_classes=classes, **sized).eval()
    sized = {"image_size": size} if "vit" in name else {}
    return getattr(models, name)(num_classes=classes, **sized).eval()


def ours(arch: str, classes: int = CLASSES, size: int = SIZE) -> networks.Network:
    torch.manual_seed(1)
    return networks.build(arch, classes, image_size=size).eval()


def images(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


WRAPPINGS = {  # who saves it so
    "the library": lambda state: state,
    "DataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "torch.compile": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "Lightning": lambda state: {
        "state_dict": {f"model.{k}": v for k, v in state.items()} | {"loss.weight": torch.ones(2)},
        "epoch": 3,
    },
    "timm's training": lambda state: {"arch": "a", "state_dict": state, "epoch": 3},
    "an attribute": lambda state: {"model": {f"net.backbone.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("arch", ARCHS)
def test_init_in_every_wrapping_gives_the_librarys_own_logits(tmp_path, arch):
    theirs = of_library(arch)
    for name, wrap in WRAPPINGS.items():
        torch.save(wrap(theirs.state_dict()), tmp_path / "a.pt")
        network = ours(arch)
        left_out = init.load_init(network, tmp_path / "a.pt")
        assert left_out == (["loss.weight"] if name == "Lightning" else []), name
        with torch.no_grad():
            torch.testing.assert_close(network(images()), theirs(images()), msg=name)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_head_of_another_size_or_none_leaves_the_fresh_one(tmp_path, arch):
    theirs = of_library(arch, classes=11)
    backbone = ours(arch).backbone.state_dict()
    for state in (theirs.state_dict(), {k: theirs.state_dict()[k] for k in backbone}):
        torch.save(state, tmp_path / "a.pt")
        network = ours(arch)
        fresh = network.classifier.weight.clone()
        assert init.load_init(network, tmp_path / "a.pt") == []
        assert torch.equal(network.classifier.weight, fresh)
        for key, value in network.backbone.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key


@pytest.mark.parametrize("arch", ["timm:test_vit", VIT])
def test_our_own_file_of_the_network_is_taken_whole(tmp_path, arch):
    source, network = networks.build(arch, CLASSES, image_size=SIZE), ours(arch)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    assert init.load_init(network, tmp_path / "a.pt") == []
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in source.state_dict().items())


def test_moco_keeps_two_encoders_of_which_the_query_is_taken(tmp_path):
    query, key = (of_library("torchvision:resnet18").state_dict() for _ in range(2))
    state = {"module.queue": torch.zeros(3)}
    for name, weights in (("encoder_q", query), ("encoder_k", key)):
        weights = {k: v for k, v in weights.items() if not k.startswith("fc.")}
        mlp = {"fc.0.weight": torch.zeros(4, 4), "fc.2.weight": torch.zeros(4, 4)}
        state |= {f"module.{name}.{k}": v for k, v in (weights | mlp).items()}
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state}, tmp_path / "a.pth.tar")
    network = ours("torchvision:resnet18")
    left_out = init.load_init(network, tmp_path / "a.pth.tar")
    assert torch.equal(network.backbone.conv1.weight, query["conv1.weight"])
    assert "module.queue" in left_out
    assert all(name.startswith(("module.encoder_k.", "module.queue")) for name in left_out)


def test_dino_keeps_two_networks_of_which_the_teacher_is_taken(tmp_path):
    def state(prefix: str) -> OrderedDict:
        backbone = ours("timm:test_vit").backbone.state_dict()
        backbone = {k: v + len(prefix) for k, v in backbone.items()}
        named = {f"{prefix}backbone.{k}": v for k, v in backbone.items()}
        head = {f"{prefix}head.mlp.0.weight": torch.zeros(4, 4)}
        return OrderedDict(named | head | {f"{prefix}head.last_layer.weight_g": torch.ones(4, 1)})

    content = {"student": state("module."), "teacher": state(""), "epoch": 100}
    torch.save(content, tmp_path / "dino.pth")
    network = ours("timm:test_vit")
    init.load_init(network, tmp_path / "dino.pth")
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, content["teacher"][f"backbone.{key}"])


def test_position_embeddings_of_another_size_are_interpolated_by_timm(tmp_path):
    theirs = of_library("timm:test_vit", size=64)
    torch.save({"model": theirs.state_dict()}, tmp_path / "a.pt")
    network, expected = ours("timm:test_vit"), of_library("timm:test_vit")
    init.load_init(network, tmp_path / "a.pt")
    convert = timm.models.vision_transformer.checkpoint_filter_fn
    expected.load_state_dict(convert(theirs.state_dict(), expected))
    assert expected.pos_embed.shape != theirs.pos_embed.shape
    with torch.no_grad():
        torch.testing.assert_close(network(images()), expected(images()))


def test_position_embeddings_of_another_size_are_interpolated_by_torchvision(tmp_path):
    theirs, expected = of_library(VIT, size=64), of_library(VIT)
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    network = ours(VIT)
    init.load_init(network, tmp_path / "a.pt")
    resize = models.vision_transformer.interpolate_embeddings
    expected.load_state_dict(resize(SIZE, 16, OrderedDict(theirs.state_dict())))
    with torch.no_grad():
        torch.testing.assert_close(network(images()), expected(images()))


def refusal(network, path) -> str:
    with pytest.raises(ValueError) as error:
        init.load_init(network, path)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"--init {path}: ")


def test_position_embeddings_that_nobody_can_interpolate_are_refused(tmp_path, monkeypatch):
    state, path = of_library("timm:test_vit").state_dict(), tmp_path / "a.pt"
    torch.save(state | {"pos_embed": torch.zeros(1, 12, 64)}, path)
    network = ours("timm:test_vit")
    said = refusal(network, path)
    assert said.startswith("timm cannot interpolate its position embeddings, pos_embed (")
    assert said.endswith("; take --image-size of theirs")
    monkeypatch.delattr(timm.models.vision_transformer, "checkpoint_filter_fn")
    assert refusal(network, path) == (
        "its position embeddings are of images of another size, which the library does not "
        "interpolate: backbone.pos_embed is [1, 12, 64], expected [1, 5, 64]; take --image-size of "
        "theirs"
    )


def test_weights_of_another_patch_are_another_network(tmp_path):
    state = of_library("timm:test_vit").state_dict()
    torch.save(state | {"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8)}, tmp_path / "a.pt")
    assert refusal(ours("timm:test_vit"), tmp_path / "a.pt") == (
        "its weights are of another network: backbone.patch_embed.proj.weight is [64, 3, 8, 8], "
        "expected [64, 3, 16, 16]; name theirs with --arch (and --bottleneck)"
    )


def test_two_networks_of_which_one_stands_without_a_prefix_are_not_chosen_between(tmp_path):
    state = of_library("timm:test_resnet").state_dict()
    torch.save(state | {f"ema.{k}": v for k, v in state.items()}, tmp_path / "a.pt")
    assert "several networks in it fit, of " in refusal(ours("timm:test_resnet"), tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("arch", "head", "features"),
    [
        ("timm:test_resnet", "fc", 96),
        ("timm:test_vit", "head", 64),
        (VIT, "heads.head", 32),
        ("torchvision:mobilenet_v3_small", "classifier.3", 1024),
        ("torchvision:googlenet", "fc", 1024),
    ],
)
def test_features_are_what_the_library_gives_its_classifier(arch, head, features):
    network = ours(arch)
    assert (network.num_features, network.backbone.origin.heads) == (features, (head,))
    theirs, given = of_library(arch), []
    theirs.load_state_dict(network.backbone.state_dict(), strict=False)
    if "googlenet" in arch:
        theirs.transform_input = True  # as with its weights
    theirs.get_submodule(head).register_forward_pre_hook(lambda module, args: given.append(args[0]))
    with torch.no_grad():
        theirs(images())
        assert torch.equal(network.backbone(images()), given[0])


def test_grey_images_are_seen_by_networks_of_timm_alone():
    assert networks.build("timm:test_resnet", 3, 1, image_size=28)(torch.zeros(2, 1, 28, 28)).shape
    with pytest.raises(ValueError, match="for 1×28×28 images"):
        networks.build("torchvision:resnet18", 3, 1, image_size=28)


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("torchvision:squeezenet1_1", "its classifier is no linear layer"),
        (VIT, "Input shape indivisible by patch size!"),
        ("timm:test_vit", "Input height (30) should be divisible by patch size (16)."),
    ],
)
def test_a_network_that_cannot_see_such_images_is_refused(arch, reason):
    with pytest.raises(ValueError) as error:
        networks.build(arch, 3, image_size=30)
    assert str(error.value).startswith(f"--arch {arch}: ")
    assert f"for 3×30×30 images ({reason}); take another --image-size" in str(error.value)


# Pretrained weights, of a stand-in for the places that the libraries download from.


@pytest.fixture
def torchvision_site(monkeypatch, tmp_path):
    """What torch's downloader gets for an address; the address of ResNet-18 has our hash."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.manual_seed(3)
    net, file = models.resnet18(), io.BytesIO()
    torch.save(net.state_dict(), file)
    content = file.getvalue()
    weights = models.ResNet18_Weights.DEFAULT.value
    digest, before = hashlib.sha256(content).hexdigest()[:8], weights.url
    object.__setattr__(weights, "url", f"https://weights.example/resnet18-{digest}.pth")
    site = {weights.url: content}

    class Reply(io.BytesIO):
        def info(self):
            headers = email.message.Message()
            headers["Content-Length"] = str(len(self.getvalue()))
            return headers

    def urlopen(request, *_):
        if request.full_url not in site:
            raise urllib.error.URLError("no network")
        return Reply(site[request.full_url])

    monkeypatch.setattr(hub, "urlopen", urlopen)
    yield net, site, weights.url
    object.__setattr__(weights, "url", before)


def test_pretrained_weights_come_through_torchvisions_cache(torchvision_site, tmp_path):
    net, site, url = torchvision_site
    backbone = ours("torchvision:resnet18").backbone
    libraries.load_pretrained(backbone)
    assert torch.equal(backbone.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    kept = tmp_path / "cache/hub/checkpoints" / url.rpartition("/")[2]
    assert kept.read_bytes() == site.pop(url)
    again = ours("torchvision:resnet18").backbone
    libraries.load_pretrained(again)
    assert torch.equal(again.conv1.weight, net.conv1.weight), "from the cache"


def test_pretrained_weights_that_do_not_fit_images_of_this_size_are_refused(monkeypatch):
    backbone = ours("timm:test_resnet").backbone
    state = backbone.state_dict()
    key = next(k for k, v in state.items() if v.ndim == 4)
    state[key] = torch.zeros(2, 2, 2, 2)
    monkeypatch.setattr(libraries, "_weights_of_timm", lambda *_: {key: state[key]})
    with pytest.raises(ValueError) as error:
        libraries.load_pretrained(backbone)
    assert str(error.value).startswith(
        "--pretrained: timm's weights of test_resnet do not fit images of 32 "
        f"({key} is [2, 2, 2, 2], expected ["
    )
    assert str(error.value).endswith("): leave out --image-size, which takes the network's own")


def test_without_a_network_one_sentence_says_which_file_of_torchvision_belongs_where(
    torchvision_site, tmp_path
):
    _, site, url = torchvision_site
    site.clear()
    with pytest.raises(FileNotFoundError) as error:
        libraries.load_pretrained(ours("torchvision:resnet18").backbone)
    place = tmp_path / "cache/hub/checkpoints" / url.rpartition("/")[2]
    assert str(error.value) == (
        "--pretrained: torchvision's weights of resnet18 cannot be had from its cache or the "
        f"network (<urlopen error no network>): fetch {url} on another machine and copy it to "
        f"{place}; or name any file of weights with --init"
    )


def test_pretrained_weights_run_nothing_and_have_the_published_hash(torchvision_site):
    _, site, url = torchvision_site
    site[url] += b"more"
    with pytest.raises(FileNotFoundError, match="invalid hash value"):
        libraries.load_pretrained(ours("torchvision:resnet18").backbone)


def test_a_cached_file_of_more_than_tensors_is_refused(torchvision_site, tmp_path):
    _, _, url = torchvision_site
    place = tmp_path / "cache/hub/checkpoints" / url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.save(models.resnet18(), place)  # a pickle of code
    with pytest.raises(FileNotFoundError, match="Weights only load failed"):
        libraries.load_pretrained(ours("torchvision:resnet18").backbone)


@pytest.fixture
def hugging_face(monkeypatch, tmp_path):
    """A hub on this machine with the weights of one network; returns them and the files."""
    from huggingface_hub import constants
    from safetensors.torch import save

    torch.manual_seed(3)
    state = timm.create_model("test_vit").state_dict()
    files = {"/timm/test_vit.r160_in1k/resolve/main/model.safetensors": save(state)}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path)
            self.send_response(200 if content else 404)
            if content:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = (
        f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield state, files
    server.shutdown()
    server.server_close()


def test_pretrained_weights_come_through_timms_download_and_cache(hugging_face, tmp_path):
    state, _ = hugging_face
    backbone = ours("timm:test_vit", size=160).backbone
    libraries.load_pretrained(backbone)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert list(
        (tmp_path / "hub").glob("models--timm--test_vit.r160_in1k/snapshots/*/*.safetensors")
    )


def test_pretrained_weights_for_another_size_are_interpolated(hugging_face):
    state, _ = hugging_face
    backbone = ours("timm:test_vit", size=32).backbone
    libraries.load_pretrained(backbone)
    assert torch.equal(backbone.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])
    assert backbone.pos_embed.shape == (1, 5, 64)
    assert torch.equal(backbone.pos_embed[:, 0], state["pos_embed"][:, 0]), "the class token's"


def test_without_a_network_one_sentence_says_which_file_of_timm_belongs_where(
    monkeypatch, tmp_path
):
    from huggingface_hub import constants
    from timm.models import _hub

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(_hub, "hf_hub_download", no_network)
    with pytest.raises(FileNotFoundError) as error:
        libraries.load_pretrained(ours("timm:test_vit").backbone)
    assert str(error.value) == (
        "--pretrained: timm's weights of test_vit cannot be had from its cache or the network "
        f"(no network): fetch {constants.ENDPOINT}/timm/test_vit.r160_in1k on another machine and "
        f"copy it to {tmp_path}/hub/models--timm--test_vit.r160_in1k, the folder of that name in "
        "the cache there; or name any file of weights with --init"
    )


def test_a_network_for_which_timm_has_no_weights_is_refused(monkeypatch):
    monkeypatch.setattr(libraries, "_num_features", lambda *_: 8)  # which takes a second
    with pytest.raises(ValueError) as error:
        libraries.load_pretrained(ours("timm:regnetz_005").backbone)
    assert str(error.value) == "--pretrained: timm has no weights for regnetz_005"


def test_every_address_of_torchvision_is_https():
    for name in models.list_models(module=torchvision.models):
        assert models.get_model_weights(name).DEFAULT.url.startswith("https://"), name
