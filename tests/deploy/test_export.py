"""export: a file that gives the run's logits, says how to use it, and is not there otherwise."""

import json
import os
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_folder
from wbcli.data import datasets, recorded
from wbcli.deploy import export, predict
from wbcli.models import networks
from wbcli.runs.run import Run
from wbcli.training import signals

FLOWERS = {"daisy": 6, "red rose": 2, "tülip": 1}
FORMATS = ("torch", "safetensors", "onnx")


def need(form):
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


@pytest.fixture
def trained(wbcli):
    given = ("--epochs", "1", "--batch-size", "64", "--val-per-class", "5", "--name", "first")
    assert wbcli("stage1", "digitslt", *given).code == 0


def metadata(form, path):
    if form == "onnx":
        import onnx

        return json.loads({e.key: e.value for e in onnx.load(path).metadata_props}["wbcli"])
    if form == "torch":
        extra = {"wbcli": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["wbcli"])
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["wbcli"])


@pytest.mark.parametrize("form", FORMATS)
def test_the_file_says_how_to_use_it(wbcli, trained, tmp_path, form):
    need(form)
    result = wbcli("export", "first", "--format", form, "--json")
    assert result.code == 0, result.err
    path = tmp_path / "runs" / "first" / f"export{export.SUFFIXES[form]}"
    assert result.json["path"] == f"runs/first/{path.name}"
    assert (result.json["run"], result.json["format"]) == ("first", form)
    assert (result.json["images"], result.json["verified_on"]) == (16, "test images")
    assert 0 <= result.json["max_difference"] < 1e-5
    about = metadata(form, path)
    assert about["class_names"] == list("0123456789")
    assert about["image"] == [1, 8, 8]
    assert (about["mean"], about["std"]) == ([0.305], [0.376])
    kept = json.loads((path.parent / "temperature.json").read_text())
    assert about["temperature"] == kept["temperature"]
    assert about["transparency"] == "laid on white, before it is cropped and resized"
    assert about["tta"] is False
    assert about["output"] == "logits [B, K]; probabilities are softmax(logits / temperature)"


LOPSIDED = torch.arange(16 * 64, dtype=torch.float32).reshape(16, 1, 8, 8).remainder(17) * 15


@pytest.mark.parametrize("form", FORMATS)
def test_a_run_of_the_released_recipe_is_exported_with_its_mirror_images(wbcli, tmp_path, form):
    """Its temperature was fitted with them: the logits that it divides are those means."""
    need(form)
    given = ("--epochs", "1", "--batch-size", "64", "--val-per-class", "5", "--name", "released")
    assert wbcli("stage1", "digitslt", "--recipe", "released", *given).code == 0
    result = wbcli("export", "released", "--format", form, "--json")
    assert result.code == 0, result.err
    path = tmp_path / "runs" / "released" / f"export{export.SUFFIXES[form]}"
    about = metadata(form, path)
    assert about["tta"] is True
    assert about["output"] == (
        "logits [B, K], mean of the image's and of its mirror image's; probabilities are "
        "softmax(logits / temperature)"
    )
    images = LOPSIDED.to(torch.uint8)
    _, logits = getattr(export, f"_read_{form}")(path)
    network = Run(path.parent).network([str(k) for k in range(10)], "best").eval()
    x = (images / 255 - 0.305) / 0.376
    with torch.no_grad():
        plain, mirrored = network(x), network(x.flip(3))
        torch.testing.assert_close(logits(images), (plain + mirrored) / 2, atol=1e-4, rtol=1e-4)
    assert (plain - mirrored).abs().max() > 0.01


def test_who_may_read_an_exported_file_is_the_users_own_choice(wbcli, trained, tmp_path):
    for form in ("safetensors", "torch"):
        for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
            path = tmp_path / f"{form}{umask}"
            before = os.umask(umask)
            try:
                assert wbcli("export", "first", "--format", form, "--output", path).code == 0
            finally:
                os.umask(before)
            assert stat.S_IMODE(path.stat().st_mode) == mode


def test_onnx_takes_batches_of_any_size(wbcli, trained, tmp_path):
    need("onnx")
    import onnxruntime

    assert wbcli("export", "first", "--output", "here.onnx").code == 0
    session = onnxruntime.InferenceSession("here.onnx")
    dataset = datasets.load("digitslt", "data", imbalance_factor=50)
    run = Run(tmp_path / "runs" / "first")
    network = run.network(dataset.class_names).eval()
    for count in (1, 7, 300):
        images = dataset.test.images[:count]
        x = (torch.from_numpy(images).float() / 255 - 0.305) / 0.376
        found = session.run(["logits"], {"images": images})[0]
        np.testing.assert_allclose(found, network(x).detach().numpy(), atol=1e-4)


def test_what_torch_cannot_write_as_onnx_is_one_line(wbcli, trained, monkeypatch):
    """Its own text is a page for its developers."""
    need("onnx")

    def fail(*args, **kwargs):
        try:
            raise OSError("No space left on device")
        except OSError as error:
            raise torch.onnx.OnnxExporterError("Failed\n- create an issue") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    result = wbcli("export", "first", "--output", "here.onnx")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == (
        "Error: torch cannot write this network as ONNX (OSError: No space left on device): try "
        "--format torch"
    )
    assert not Path("here.onnx").exists()


def test_a_signal_within_the_writing_of_onnx_waits_for_its_end(wbcli, trained, monkeypatch):
    need("onnx")
    monkeypatch.setattr(signals, "_received", None)  # put back afterwards
    write = torch.onnx.export
    done = []

    def export(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        program = write(*args, **kwargs)
        done.append(program)
        return program

    monkeypatch.setattr(torch.onnx, "export", export)
    result = wbcli("export", "first", "--output", "here.onnx")
    assert (result.code, len(done)) == (143, 1)


@pytest.mark.parametrize("arch", ["resnet8", "resnet32", "resnet34", "resnet50"])
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_every_kind_of_network_has_a_dynamic_batch(tmp_path, arch, form):
    need(form)
    torch.manual_seed(0)
    network = networks.build(arch, 7, bottleneck=3 if arch == "resnet8" else None)
    exported = export.Exported(network, [0.5] * 3, [0.25] * 3).eval()
    write, read = (getattr(export, f"_{verb}_{form}") for verb in ("write", "read"))
    about = {"image": [3, 32, 32]}
    write(exported, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), about, tmp_path / "file")
    _, logits = read(tmp_path / "file")
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    for batch in (images, images[:1]):
        torch.testing.assert_close(logits(batch), exported(batch), atol=1e-4, rtol=1e-3)


def test_a_model_that_differs_is_not_written(trained, tmp_path, monkeypatch):
    model = predict.load(Run(tmp_path / "runs" / "first"))
    read = export._read_safetensors

    def wrong(path):
        name, logits = read(path)
        return name, lambda images: logits(images) * 1.01

    monkeypatch.setattr(export, "_read_safetensors", wrong)
    path = tmp_path / "wrong.safetensors"
    images = export.real_images(recorded.for_run(model.config))
    with pytest.raises(ArithmeticError, match=r"differs from the run by 1\.0e-02 of the largest"):
        export.export(model, "first", "safetensors", path, images)
    assert not list(tmp_path.glob("*safetensors*")) and not list(tmp_path.glob(".*partial"))


def test_an_export_of_the_run_is_replaced_and_a_file_of_the_users_is_not(wbcli, trained, tmp_path):
    assert wbcli("export", "first", "--format", "safetensors").code == 0
    assert wbcli("export", "first", "--format", "safetensors").code == 0
    mine = tmp_path / "mine.pt2"
    mine.write_text("precious")
    result = wbcli("export", "first", "--format", "torch", "--output", mine)
    assert result.code == 2
    assert result.err == (
        f"Error: --output {mine} exists: choose another name, or delete it "
        "(see wbcli export --help)\n"
    )
    assert mine.read_text() == "precious"


@pytest.fixture
def mine(wbcli, tmp_path):
    """A run of the folder `flowers`, which lies in `there` now."""
    folder = write_folder(tmp_path / "flowers", FLOWERS)
    size = ("--image-size", 32, "--arch", "resnet20", "--epochs", 1)
    assert wbcli("stage1", folder, *size, "--name", "mine").code == 0
    (tmp_path / "there").mkdir()
    folder.rename(tmp_path / "there" / "flowers")
    return tmp_path / "runs" / "mine"


@pytest.mark.parametrize("form", FORMATS)
def test_without_the_data_set_it_is_compared_on_made_up_images_and_says_so(wbcli, mine, form):
    need(form)
    result = wbcli("export", "mine", "--format", form, "--json")
    assert result.code == 0, result.err
    assert (result.json["images"], result.json["verified_on"]) == (16, "made-up images")
    assert 0 <= result.json["max_difference"] < 1e-5
    assert result.err.startswith("Warning: no folder flowers with train/CLASS/")
    assert result.err.endswith("; compared on made-up images instead\n")
    assert result.err.count("\n") == 1
    assert metadata(form, mine / f"export{export.SUFFIXES[form]}")["class_names"] == list(FLOWERS)


def test_the_sentence_says_what_it_was_compared_on(wbcli, mine, tmp_path):
    args = ("export", "mine", "--format", "safetensors")
    assert "the same logits as mine on 16 made-up images, within " in wbcli(*args).out
    found = wbcli(*args, "--data-dir", tmp_path / "there")
    assert (found.code, found.err) == (0, "")
    assert "the same logits as mine on 16 test images, within " in found.out
    asked = wbcli(*args, "--data-dir", tmp_path / "there", "--json").json
    assert asked["verified_on"] == "test images"


def test_made_up_images_tell_a_model_that_differs(mine, tmp_path, monkeypatch):
    model = predict.load(Run(mine))
    read = export._read_safetensors

    def wrong(path):
        name, logits = read(path)
        return name, lambda images: logits(images).roll(1, 1)

    monkeypatch.setattr(export, "_read_safetensors", wrong)
    path = tmp_path / "wrong.safetensors"
    with pytest.raises(ArithmeticError, match=r"largest logit on 16 images, expected at most"):
        export.export(model, "mine", "safetensors", path, export.made_up_images(model))
    assert not path.exists()


def test_a_data_set_that_was_asked_for_and_is_not_there_is_an_error(wbcli, mine, tmp_path):
    args = ("--format", "safetensors", "--data-dir", tmp_path)
    result = wbcli("export", "mine", *args)
    assert result.code == 1 and "--data-dir" in result.err and result.err.count("\n") == 1
    assert not (mine / "export.safetensors").exists()


def test_a_damaged_test_image_is_named_and_made_up_ones_stand_in(wbcli, mine, tmp_path):
    (tmp_path / "there" / "flowers").rename(tmp_path / "flowers")
    (tmp_path / "flowers/test/daisy/0.jpg").write_bytes(b"")
    result = wbcli("export", "mine", "--format", "safetensors", "--json")
    assert (result.code, result.json["verified_on"]) == (0, "made-up images")
    assert "test/daisy/0.jpg: the file is empty" in result.err
