"""A run's network as one file for other programs: ONNX, torch.export or safetensors.

The file takes uint8 images [B, C, H, W], cropped and resized as its metadata says (or of a run on
features float32 [B, D]), and gives logits [B, K]; normalisation is inside, and so is the mean over
mirror images for a run whose recipe has it. Safetensors hold weights alone: `tta` of their metadata
asks for that mean. The file is loaded again and compared before it counts.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wbcli import __version__
from wbcli.data import datasets
from wbcli.data.batches.batch import Normalise
from wbcli.data.batches.disk import IN_ORDER, Decoder
from wbcli.data.pictures.decoding import Pictures
from wbcli.data.pictures.fitting import Fit
from wbcli.deploy.predict import Model
from wbcli.evaluate.metrics import logits_of
from wbcli.files.storage import replacing
from wbcli.models import networks
from wbcli.training.signals import whole

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
TOLERANCE = 1e-4  # of the largest logit; float32 sums differ in their order
IMAGES = 16  # real ones that are compared
KEY = "wbcli"  # of the metadata

Logits = Callable[[Tensor], Tensor]  # uint8 [B, C, H, W], float32 [B, D] → float32 [B, K]


class Exported(nn.Module):
    """uint8 [B, C, H, W] → (x/255 − mean)/std → network → logits [B, K].

    With `tta` they are the mean of those of the image and of its mirror image.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], tta: bool = False):
        super().__init__()
        self.network, self.tta = network, tta
        mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.network, images.float() * self.scale + self.shift, self.tta)


def export(model: Model, run_name: str, form: str, path: Path, images: Tensor) -> dict[str, Any]:
    """Write `path`, which appears only once its logits have been compared.

    Args:
        form: `onnx`, `torch` or `safetensors`.
        images: uint8 [B ≥ 3, C, H, W], real ones where they are there.

    Returns:
        `max_difference` (largest, over the largest logit), `images`, `verified_with`.

    Raises:
        ArithmeticError: the exported model does not give the same logits.
    """
    about = metadata(model, run_name)
    network = model.network.cpu().eval()
    exported = Exported(network, about["mean"], about["std"], about["tta"]).eval()
    write, read = {
        "onnx": (_write_onnx, _read_onnx),
        "torch": (_write_torch, _read_torch),
        "safetensors": (_write_safetensors, _read_safetensors),
    }[form]
    if model.source.features:  # whose normalisation is in the network
        exported = network
    with replacing(path) as partial:
        write(exported, images[:2], about, partial)
        verified_with, logits = read(partial)
        if logits is None:
            return {"max_difference": None, "images": 0, "verified_with": verified_with}
        difference = _compare(model, images, logits)
        if not difference <= TOLERANCE:
            raise ArithmeticError(
                f"the exported model differs from the run by {difference:.1e} of the largest "
                f"logit on {len(images)} images, expected at most {TOLERANCE:g}; {path} was "
                "not written"
            )
    return {"max_difference": difference, "images": len(images), "verified_with": verified_with}


def metadata(model: Model, run_name: str) -> dict[str, Any]:
    """What the file says of itself, as JSON under the key `wbcli`."""
    common = {
        "wbcli": __version__,
        "run": run_name,
        "arch": model.config.arch,
        "bottleneck": model.config.bottleneck,
        "heads": model.config.heads,
        "class_names": model.class_names,
        "image": list(model.image),
        "mean": list(model.source.mean),
        "std": list(model.source.std),
        "tta": model.config.tta,
        "temperature": model.temperature,
    }
    softmax = "probabilities are softmax(logits / temperature)"
    if model.source.features:
        return common | {
            "input": f"float32 [B, {model.config.num_features}]",
            "normalise": model.config.normalise,
            "output": f"logits [B, K]; {softmax}",
        }
    channels, height, width = model.image
    crop = f"centre, resized to {height}×{width} (bilinear)"
    mirrored = ", mean of the image's and of its mirror image's" if model.config.tta else ""
    return common | {
        "input": f"uint8 [B, {channels}, {height}, {width}], {'RGB' if channels == 3 else 'grey'}",
        "transparency": "laid on white, before it is cropped and resized",
        "fit": model.fit.how if model.fit else "crop",
        "fill": model.fit and model.fit.fill,
        "crop": model.fit.describe(height) if model.fit else crop,
        "output": f"logits [B, K]{mirrored}; {softmax}",
    }


def real_images(dataset: datasets.Dataset) -> Tensor:
    """Some images of what is measured as the network takes them, uint8 [B, C, H, W]; or rows of
    features, float32 [B, D].
    """
    split = dataset.split(dataset.measured)
    index = np.linspace(0, len(split.labels) - 1, IMAGES).astype(int)
    if isinstance(split.images, Pictures):
        fit = Fit.of(dataset.source, dataset.fit)
        decoder = Decoder(split, dataset.image_size, fit)
        images = [decoder(0, IN_ORDER, i).transpose(2, 0, 1) for i in index.tolist()]
        return torch.from_numpy(np.stack(images))
    return torch.from_numpy(np.asarray(split.images[index]))


def made_up_images(model: Model) -> Tensor:
    """Noise in the place of test images that are not there, as `real_images`; always the same."""
    generator = torch.Generator().manual_seed(0)
    if model.source.features:
        return torch.randn(IMAGES, *model.image, generator=generator)
    return torch.randint(0, 256, (IMAGES, *model.image), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def _compare(model: Model, images: Tensor, logits: Logits) -> float:
    """Largest difference over the largest logit, in batches of 1, 2 and the rest."""
    taken = images
    if not model.source.features:
        taken = Normalise(model.source, torch.device("cpu"))(images.permute(0, 2, 3, 1))
    expected = logits_of(model.network, taken, model.config.tta)
    found = torch.cat([logits(part) for part in images.split([1, 2, len(images) - 3])])
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _write_onnx(exported: nn.Module, images: Tensor, about: dict[str, Any], path: Path) -> None:
    import onnx

    with _quiet(), whole():  # a signal within it would be told as a failure of torch
        try:
            program = torch.onnx.export(
                exported,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[_input(about)],
                output_names=["logits"],
                dynamic_shapes=_shapes(),
            )
        except RuntimeError as error:  # whose text is a page of advice to torch's developers
            cause = _first_cause(error)
            reason = (str(cause).splitlines() or [""])[0]
            raise RuntimeError(
                f"torch cannot write this network as ONNX ({type(cause).__name__}: {reason}): try "
                "--format torch"
            ) from error
    content = program.model_proto
    entry = content.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about, ensure_ascii=False)
    onnx.save(content, path)


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__:
        error = error.__cause__
    return error


def _read_onnx(path: Path) -> tuple[str, Logits | None]:
    if find_spec("onnxruntime") is None:
        import onnx

        onnx.checker.check_model(onnx.load(path))
        return "onnx.checker", None
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return f"onnxruntime {onnxruntime.__version__}", lambda images: torch.from_numpy(
        session.run(["logits"], {name: images.numpy()})[0]
    )


def _input(about: dict[str, Any]) -> str:
    return "images" if len(about["image"]) > 1 else "features"


def _shapes() -> tuple[dict]:
    """Of the one input: any number of images."""
    return ({0: torch.export.Dim("batch", min=1)},)


def _write_torch(exported: nn.Module, images: Tensor, about: dict[str, Any], path: Path) -> None:
    with _quiet():
        program = torch.export.export(exported, (images,), dynamic_shapes=_shapes())
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={KEY: json.dumps(about)})


def _read_torch(path: Path) -> tuple[str, Logits]:
    with _quiet(), path.open("rb") as file:
        return f"torch {torch.__version__}", torch.export.load(file).module()


def _write_safetensors(
    exported: nn.Module, images: Tensor, about: dict[str, Any], path: Path
) -> None:
    from safetensors.torch import save

    network = getattr(exported, "network", exported)
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    content = save(weights, {KEY: json.dumps(about, ensure_ascii=False)})
    path.write_bytes(content)  # by save_file nobody but the owner could read it


def _read_safetensors(path: Path) -> tuple[str, Logits]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[KEY])
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    network = networks.build(
        about["arch"],
        len(about["class_names"]),
        about["image"][0],
        bottleneck=about["bottleneck"],
        image_size=about["image"][-1],
        heads=about["heads"],
        normalise=about.get("normalise"),
    )
    network.load_state_dict(weights)
    if about["arch"] == "linear":
        return "safetensors", network.eval()
    rebuilt = Exported(network, about["mean"], about["std"], about["tta"]).eval()
    return "safetensors", rebuilt


@contextlib.contextmanager
def _quiet():
    """Exporters talk to everybody; errors are exceptions."""
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
