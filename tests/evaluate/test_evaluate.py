"""Metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from conftest import write_folder, write_pictures
from wbcli.data.pictures import decoding
from wbcli.evaluate.measured import confusion_groups
from wbcli.evaluate.metrics import fit_temperature, group_means, logits_of, measure
from wbcli.models import networks
from wbcli.models.classifiers import make
from wbcli.models.networks import Network

# Five images of three classes (the third has none), probabilities as the table says:
#   label  p0    p1    p2   prediction  right  confidence → bin of 15 (width 1/15)
#   0      0.5   0.3   0.2      0        yes    0.5  → 8th
#   0      0.1   0.7   0.2      1        no     0.7  → 11th
#   0      0.8   0.1   0.1      0        yes    0.8  → 12th
#   1      0.25  0.72  0.03     1        yes    0.72 → 11th
#   1      0.19  0.2   0.61     2        no     0.61 → 10th
PROBABILITIES = [
    [0.5, 0.3, 0.2],
    [0.1, 0.7, 0.2],
    [0.8, 0.1, 0.1],
    [0.25, 0.72, 0.03],
    [0.19, 0.2, 0.61],
]
LABELS = torch.tensor([0, 0, 0, 1, 1])


class Table(nn.Module):
    """A network whose logits are its images' first pixels."""

    def forward(self, images):
        return images[:, :, 0, 0]


def as_batches(probabilities, sizes=(2, 3)):
    images = torch.tensor(probabilities, dtype=torch.float64).log().float()[:, :, None, None]
    return list(zip(images.split(sizes), LABELS.split(sizes), strict=True))


@pytest.fixture
def metrics():
    return measure(Table(), as_batches(PROBABILITIES), 3)


def test_accuracy_by_class(metrics):
    assert metrics["num_images"] == 5
    assert metrics["images"].tolist() == [3, 2, 0]
    np.testing.assert_allclose(metrics["accuracy"], [200 / 3, 50, math.nan])


def test_accuracy_over_images_is_not_the_mean_over_classes(metrics):
    """Three of five images are right; the mean over classes is (2/3 + 1/2)/2."""
    assert metrics["image_accuracy"] == pytest.approx(60)
    means = group_means(metrics["accuracy"], {})
    assert means["all"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)


def test_precision_and_f1_of_each_class(metrics):
    """Predictions are 0, 1, 0, 1, 2: class 2 has no image, so no recall and no F1, but it is
    predicted once, and wrongly."""
    np.testing.assert_allclose(metrics["precision"], [100, 50, 0])
    np.testing.assert_allclose(metrics["f1"], [100 * 4 / 5, 100 * 2 / 4, math.nan])


def test_a_class_that_is_never_predicted_has_no_precision_and_an_f1_of_0():
    found = measure(Table(), as_batches([[0.9, 0.05, 0.05]] * 5), 3)
    np.testing.assert_allclose(found["precision"], [60, math.nan, math.nan])
    np.testing.assert_allclose(found["f1"], [100 * 6 / 8, 0, math.nan])
    assert found["macro_f1"] == pytest.approx(100 * 6 / 8 / 2)


def test_nll_is_the_mean_over_images(metrics):
    by_hand = -sum(math.log(p) for p in (0.5, 0.1, 0.8, 0.72, 0.2)) / 5
    assert metrics["nll"] == pytest.approx(by_hand, rel=1e-6)


def test_marginal_likelihood_is_the_mean_probability_over_all_images(metrics):
    expected = np.mean(PROBABILITIES, axis=0)
    np.testing.assert_allclose(metrics["marginal_likelihood"], expected, rtol=1e-6)


def test_macro_f1_is_the_mean_over_classes_with_images(metrics):
    """F1 = 2·hits/(images + predictions): 4/(3 + 2) and 2/(2 + 2)."""
    assert metrics["macro_f1"] == pytest.approx(100 * (4 / 5 + 2 / 4) / 2)


def test_ece_weighs_each_bin_by_its_images(metrics):
    """The 11th bin holds 0.7 (wrong) and 0.72 (right); the other bins one image each."""
    gaps = [1 - 0.5, abs(1 - (0.7 + 0.72)), 1 - 0.8, 0.61]
    assert metrics["ece"] == pytest.approx(100 * sum(gaps) / 5, rel=1e-5)


def test_top5_of_three_classes_is_everything(metrics):
    assert metrics["top5"] == 100


def test_top5_is_the_mean_over_classes():
    """Seven classes: the label is among the best five, and then it is not."""
    logits = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]])
    batch = [(logits[:, :, None, None], torch.tensor([2, 1, 1]))]
    assert measure(Table(), batch, 7)["top5"] == pytest.approx((100 + 50) / 2)


def test_a_temperature_divides_the_logits(metrics):
    both = measure(Table(), as_batches(PROBABILITIES), 3, temperature=2.0)
    roots = np.sqrt(PROBABILITIES)
    roots /= roots.sum(1, keepdims=True)
    by_hand = -np.log(roots[np.arange(5), LABELS]).mean()
    assert both["nll_with_temperature"] == pytest.approx(by_hand, rel=1e-6)
    confidence, hits = roots.max(1), np.array([1, 0, 1, 1, 0])
    gaps = {}  # every bin of 15: hits less confidence
    for bin_of, gap in zip(np.ceil(15 * confidence), hits - confidence, strict=True):
        gaps[bin_of] = gaps.get(bin_of, 0) + gap
    by_hand = 100 * sum(map(abs, gaps.values())) / 5
    assert both["ece_with_temperature"] == pytest.approx(by_hand, rel=1e-5)
    assert (both["nll"], both["ece"]) == (metrics["nll"], metrics["ece"])
    assert metrics["nll_with_temperature"] is metrics["ece_with_temperature"] is None


def test_tta_averages_the_logits_of_image_and_mirror_image():
    images = torch.zeros(1, 2, 1, 2)
    images[0, :, 0, 0], images[0, :, 0, 1] = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 8.0])
    assert logits_of(Table(), images, tta=False).tolist() == [[3, 0]]
    assert logits_of(Table(), images, tta=True).tolist() == [[2, 4]]


def test_group_means_leave_out_classes_without_test_images_and_empty_groups():
    accuracy = np.array([80.0, 60.0, math.nan, 10.0])
    groups = {
        "many": np.array([True, True, False, False]),
        "medium": np.array([False, False, True, True]),
        "few": np.array([False] * 4),
    }
    means = group_means(accuracy, groups)
    assert means == {"all": 50.0, "many": 70.0, "medium": 10.0, "few": None}


def test_the_fitted_temperature_is_the_one_the_logits_were_multiplied_by():
    """Labels drawn from softmax(z); logits 4·z are best at T = 4."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    batches = [(4 * z[:, :, None, None], labels)]
    assert fit_temperature(Table(), batches) == pytest.approx(4, rel=0.05)


def test_the_temperature_of_tiny_logits_is_tiny():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # ln 3 apart is best
    batches = [(1e-3 * z[:, :, None, None], torch.tensor([0, 0, 1, 1]))]
    assert fit_temperature(Table(), batches) == pytest.approx(1e-3 / math.log(3), rel=1e-3)


def test_bins_of_confidence_are_counted(metrics):
    """Of the 15, the 8th, 10th, 11th and 12th hold images."""
    filled = [7, 9, 10, 11]
    assert metrics["bin_images"][filled].tolist() == [1, 1, 2, 1]
    assert metrics["bin_images"].sum() == 5
    np.testing.assert_allclose(metrics["bin_confidence"][filled], [0.5, 0.61, 1.42, 0.8])
    assert metrics["bin_hits"][filled].tolist() == [1, 0, 1, 1]


def test_confusion_counts_labels_by_predictions():
    """Predictions are 0, 1, 0 for label 0 and 1, 2 for label 1."""
    each = measure(Table(), as_batches(PROBABILITIES), 3, groups=torch.arange(3))
    assert each["confusion"].tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    two = measure(Table(), as_batches(PROBABILITIES), 3, groups=torch.tensor([1, 0, 0]))
    assert two["confusion"].tolist() == [[2, 0], [1, 2]]


def test_the_places_of_a_confusion_matrix_are_by_training_images():
    index, names = confusion_groups([3, 50, 7], ["a", "b", "c"])
    assert index.tolist() == [2, 0, 1]
    assert names == ["b", "c", "a"]
    index, names = confusion_groups(list(range(1, 1001)), [""] * 1000)
    assert (index[-1], index[0], names[0], names[-1]) == (0, 49, "1000–981", "20–1")


def test_a_temperature_needs_no_logits_of_all_images():
    """What is kept are features; the minimum is that of all logits together."""
    torch.manual_seed(0)
    network = networks.build("resnet8", 6, bottleneck=3)
    torch.nn.init.normal_(network.classifier.weight, std=9)
    batches = [(torch.randn(20, 3, 8, 8), torch.randint(6, (20,))) for _ in range(4)]
    widest = []
    network.classifier.register_forward_hook(lambda m, x, y: widest.append(len(y)))
    for tta in (False, True):
        found = fit_temperature(network, batches, tta=tta)
        with torch.no_grad():
            logits = torch.cat([logits_of(network, x, tta) for x, _ in batches]).double()
        labels = torch.cat([labels for _, labels in batches])

        def nll(temperature, logits=logits, labels=labels):
            return torch.nn.functional.cross_entropy(logits / temperature, labels).item()

        assert nll(found) < min(nll(found * 1.02), nll(found / 1.02))
    assert max(widest) == 20


class Square(nn.Module):
    """A classifier that is linear in nothing."""

    num_classes = 3

    def linear(self):
        return None

    def forward(self, features):
        return 9 * features[:, :3].square()


@pytest.mark.parametrize("head", ["cosine", "normalised", "disalign", "square"])
def test_the_temperature_of_mirrored_images_is_that_of_their_mean_logits(head):
    """A classifier that is not linear in the features sees another thing in their mean."""
    torch.manual_seed(0)
    network = Network(nn.Flatten(), 16, 3)
    network.classifier = Square() if head == "square" else make(head, 16, 3)
    for value in network.state_dict().values():
        value.copy_(torch.randn_like(value))
    images = torch.randn(60, 1, 4, 4)
    with torch.no_grad():
        logits = logits_of(network.eval(), images, True).double()
    labels = torch.where(torch.arange(60) % 3 > 0, logits.argmax(1), torch.randint(3, (60,)))
    found = fit_temperature(network, [(images, labels)], tta=True)

    def nll(temperature):
        return torch.nn.functional.cross_entropy(logits / temperature, labels).item()

    assert nll(found) < min(nll(found * 1.02), nll(found / 1.02))


def test_numbers_with_and_without_a_temperature_decode_each_picture_once(wbcli, monkeypatch):
    write_folder("mine", {"a": 3, "b": 2}, val=2)
    size = ("--image-size", 16, "--arch", "resnet8", "--epochs", 1, "--name", "first")
    assert wbcli("stage1", "mine", *size).code == 0
    read, decoded = decoding.read_bytes, []
    monkeypatch.setattr(decoding, "read_bytes", lambda path: decoded.append(path) or read(path))
    result = wbcli("eval", "first", "--json").json
    assert result["nll_with_temperature"] != result["nll"]
    of_test = [path.name for path in decoded if "test" in path.parts]
    assert len(of_test) == result["num_images"] == 4


def test_one_class_without_test_images_is_one_class(wbcli):
    write_folder("mine", {"a": 3, "b": 2})
    write_pictures("mine", ["train/c/1.jpg"])
    size = ("--image-size", 16, "--arch", "resnet8", "--epochs", 1, "--name", "first")
    assert wbcli("stage1", "mine", *size).code == 0
    assert wbcli("eval", "first").err == (
        "Warning: first: 1 class has no images in this split and is left out of the means: c\n"
    )
