"""What networks of two libraries want: their own numbers, and sentences for what is not there."""

import sys

import numpy as np
import pytest
from PIL import Image

from wbcli.data import sources
from wbcli.data.batches.disk import IN_ORDER, Decoder
from wbcli.data.datasets import Split
from wbcli.data.pictures import preprocessing
from wbcli.data.pictures.decoding import Pictures
from wbcli.data.pictures.fitting import Fit
from wbcli.data.pictures.preprocessing import preprocessing_of, split_arch

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("arch", "size", "fraction", "interpolation"),
    [
        ("torchvision:resnet18", 224, 224 / 256, "bilinear"),
        ("torchvision:resnet50", 224, 224 / 232, "bilinear"),  # of its second weights
        ("torchvision:efficientnet_b4", 380, 380 / 384, "bicubic"),
        ("torchvision:vit_h_14", 518, 1, "bicubic"),
    ],
)
def test_torchvision_says_how_its_weights_see_pictures(arch, size, fraction, interpolation):
    assert preprocessing_of(arch) == (size, fraction, interpolation, *IMAGENET)


def test_timm_says_how_its_weights_see_pictures():
    pytest.importorskip("timm")
    half = (0.5, 0.5, 0.5)
    assert preprocessing_of("timm:test_vit") == (160, 0.95, "bicubic", half, half)
    assert preprocessing_of("timm:resnet18.tv_in1k") == (224, 0.875, "bilinear", *IMAGENET)
    assert preprocessing_of("timm:resnet18") == (224, 0.95, "bicubic", *IMAGENET)


def test_a_name_that_a_library_does_not_have_is_refused_with_close_ones():
    with pytest.raises(ValueError) as error:
        preprocessing_of("torchvision:resnet51")
    assert str(error.value).startswith(
        "--arch torchvision:resnet51: torchvision has no classifier of that name; close to it are "
        "resnet50, "
    )
    with pytest.raises(ValueError, match="torchvision has no classifier of that name"):
        preprocessing_of("torchvision:fcn_resnet50")
    pytest.importorskip("timm")
    for name in ("resnt18", "resnet18.another"):
        with pytest.raises(ValueError, match=f"^--arch timm:{name}: .*close to it are resnet18"):
            preprocessing_of(f"timm:{name}")


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(preprocessing, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError) as error:
        preprocessing_of("timm:resnet18")
    assert str(error.value) == "--arch timm:resnet18 needs timm: pip install 'wbcli[timm]'"


def test_our_networks_are_of_no_library():
    assert split_arch("resnet50") is None
    assert split_arch("other:resnet50") is None
    assert split_arch("timm:vit.a_b") == ("timm", "vit.a_b")


def test_a_picture_is_cropped_and_resized_as_the_network_wants(tmp_path):
    ramp = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    split = Split(Pictures.of(tmp_path, ["a.png"]), np.zeros(1, int))
    found = Decoder(split, 16, Fit("crop", (), 0.5, "bicubic"))(0, IN_ORDER, 0)
    expected = Image.fromarray(ramp).resize((16, 16), Image.Resampling.BICUBIC, (10, 10, 30, 30))
    assert np.array_equal(found, np.asarray(expected))


def test_a_run_sees_its_data_set_by_what_it_recorded():
    class Recorded:
        dataset, mean, std = "own", (0.1, 0.2, 0.3), None
        crop_fraction, interpolation = 0.9, None

    source = sources.of_run(Recorded)
    assert (source.mean, source.std) == ((0.1, 0.2, 0.3), sources.find("own").std)
    assert (source.crop_fraction, source.interpolation) == (0.9, "bilinear")
