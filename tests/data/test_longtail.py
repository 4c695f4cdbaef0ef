"""Class counts and subsets against the published figures and against rules written out here."""

import numpy as np
import pytest

from conftest import stamps, write_cifar10, write_cifar100, write_folder
from wbcli.data import datasets, longtail, sources

TOTALS = {  # (data set, imbalance factor): training images
    ("cifar100lt", 200): 9_502,
    ("cifar100lt", 100): 10_847,
    ("cifar100lt", 50): 12_608,
    ("cifar100lt", 20): 15_907,
    ("cifar100lt", 10): 19_573,
    ("cifar10lt", 100): 12_406,
    ("cifar10lt", 50): 13_996,
    ("cifar10lt", 10): 20_431,
    ("fashionmnistlt", 100): 14_886,
    ("fashionmnistlt", 50): 16_796,
    ("fashionmnistlt", 10): 24_516,
    ("digitslt", 50): 287,
}
BALANCED = {"cifar100lt": 500, "cifar10lt": 5000, "fashionmnistlt": 6000, "digitslt": 104}


@pytest.mark.parametrize(("name", "factor"), TOTALS)
def test_totals(name, factor):
    counts = longtail.class_counts([BALANCED[name]] * sources.find(name).num_classes, factor, "exp")
    assert sum(counts) == TOTALS[name, factor]
    assert counts == sorted(counts, reverse=True)


def test_digits_counts():
    counts = longtail.class_counts([104] * 10, 50, "exp")
    assert counts == [104, 67, 43, 28, 18, 11, 7, 4, 3, 2]


@pytest.mark.parametrize(
    ("factor", "rarest", "groups"),
    [(200, 2, None), (100, 5, (35, 35, 30)), (50, 10, (41, 41, 18)), (20, 25, None)]
    + [(10, 50, (69, 31, 0))],
)
def test_cifar100_files_give_the_published_counts(cifar100, factor, rarest, groups):
    dataset = datasets.load("cifar100lt", cifar100[0], imbalance_factor=factor)
    assert len(dataset.train.labels) == TOTALS["cifar100lt", factor]
    assert np.bincount(dataset.train.labels).tolist() == dataset.class_counts
    assert min(dataset.class_counts) == rarest
    if factor == 100:
        assert dataset.class_counts[:5] == [500, 477, 455, 434, 415]
        assert dataset.class_counts[-4:] == [5, 5, 5, 5]
    if groups:
        assert tuple(mask.sum() for mask in dataset.groups().values()) == groups


def test_first_takes_the_first_images_of_each_class_in_file_order(cifar100):
    folder, labels = cifar100
    dataset = datasets.load("cifar100lt", folder, imbalance_factor=100, subset="first")
    seen, expected = [0] * 100, set()
    for number, label in enumerate(labels):
        if seen[label] < dataset.class_counts[label]:
            expected.add(number)
        seen[label] += 1
    assert set(stamps(dataset.train.images).tolist()) == expected
    assert (labels[stamps(dataset.train.images)] == dataset.train.labels).all()


def test_shuffled_is_ldam_drws_rule(cifar100):
    """One legacy generator seeded 0, a shuffle for each class in class order, then the first."""
    folder, labels = cifar100
    dataset = datasets.load("cifar100lt", folder, imbalance_factor=100, subset="shuffled")
    np.random.seed(0)
    expected = set()
    for k in range(100):
        numbers = np.where(labels == k)[0]
        np.random.shuffle(numbers)
        expected.update(numbers[: dataset.class_counts[k]].tolist())
    assert set(stamps(dataset.train.images).tolist()) == expected
    assert (labels[stamps(dataset.train.images)] == dataset.train.labels).all()


def test_cifar10_reads_its_five_batches_in_order(tmp_path):
    labels = write_cifar10(tmp_path, 40)
    dataset = datasets.load("cifar10lt", tmp_path, imbalance_factor=10)
    assert dataset.class_counts == longtail.class_counts([40] * 10, 10, "exp")
    assert (labels[stamps(dataset.train.images)] == dataset.train.labels).all()


def test_step_imbalance_cuts_the_last_half():
    assert longtail.class_counts([100] * 5, 10, "step") == [100, 100, 10, 10, 10]
    assert longtail.class_counts([105] * 4, 10, "step") == [105, 105, 10, 10]


def test_factor_1_keeps_everything():
    assert longtail.class_counts([500] * 100, 1, "exp") == [500] * 100


@pytest.mark.parametrize(
    ("factor", "message"),
    [(0.5, "must be at least 1, got 0.5"), (501, "its largest value here is 500")],
)
@pytest.mark.parametrize("imbalance", longtail.TYPES)
def test_factors_that_a_set_cannot_have_are_refused(factor, message, imbalance):
    with pytest.raises(longtail.SettingError) as error:
        longtail.class_counts([500] * 100, factor, imbalance)
    assert message in str(error.value)


@pytest.mark.parametrize("imbalance", longtail.TYPES)
def test_the_largest_factor_leaves_one_image(imbalance):
    assert min(longtail.class_counts([500] * 100, 500, imbalance)) == 1


def test_no_class_keeps_more_than_it_has():
    """200·20^(−r/3) = 200, 73.7, 27.1, 10 and 200·10^(−r/3) = 200, 92.8, 43.1, 20."""
    assert longtail.class_counts([200, 80, 30, 10], 20, "exp") == [200, 73, 27, 10]
    assert longtail.class_counts([200, 80, 30, 10], 10, "exp") == [200, 80, 30, 10]
    assert longtail.class_counts([200, 80, 30, 10], 10, "step") == [200, 80, 20, 10]


def test_ranks_are_by_count_and_ties_in_class_order():
    assert longtail.ranks_by_count([10, 80, 30, 80]).tolist() == [3, 0, 2, 1]


def test_the_largest_class_of_a_folder_is_its_head(tmp_path):
    """Of the whole folder, wherever its names put the classes: 12·4^(−r/2) = 12, 6, 3."""
    write_folder(tmp_path / "mine", {"a": 4, "b": 12, "c": 12})
    counts = {
        kind: datasets.load("mine", tmp_path, imbalance_factor=4, imbalance_type=kind).class_counts
        for kind in longtail.TYPES
    }
    assert counts == {"exp": [3, 12, 6], "step": [3, 12, 3]}


def test_a_copy_of_cifar10_with_the_long_tailed_images_only_is_the_whole_sets_subset(tmp_path):
    whole = write_cifar10(tmp_path / "whole", 40)
    full = datasets.load("cifar10lt", tmp_path / "whole", imbalance_factor=10)
    kept = np.sort(stamps(full.train.images))
    write_cifar10(tmp_path / "copy", 40, kept=kept)
    copy = datasets.load("cifar10lt", tmp_path / "copy", imbalance_factor=10)
    assert copy.class_counts == full.class_counts
    assert (stamps(copy.train.images) == stamps(full.train.images)).all()
    assert (whole[stamps(copy.train.images)] == copy.train.labels).all()


def test_validation_images_never_train(tmp_path):
    """10 images a class: those the sampling left out, or where too few the last that train."""
    write_cifar100(tmp_path, 10)
    plain = datasets.load("cifar100lt", tmp_path, imbalance_factor=10)
    held = datasets.load("cifar100lt", tmp_path, imbalance_factor=10, val_per_class=4)
    train, val = set(stamps(held.train.images)), set(stamps(held.val.images))
    assert not train & val
    assert train <= set(stamps(plain.train.images))
    for k, count in enumerate(plain.class_counts):
        taken = 0 if count <= 6 else 4
        assert held.class_counts[k] == count - taken
        assert (held.val.labels == k).sum() == 4
    assert held.original_counts == plain.class_counts
    assert held.groups()["few"].tolist() == plain.groups()["few"].tolist()


def test_one_training_image_of_a_class_stays():
    orders, counts = [np.arange(10), np.arange(10, 20)], [10, 1]
    train, validation = longtail.split_validation(orders, counts, 30)
    assert [part.tolist() for part in train] == [[0], [10]]
    assert [len(part) for part in validation] == [9, 0]
