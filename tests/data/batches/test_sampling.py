"""Orders of an epoch by name: probabilities by hand, and which images come when."""

import numpy as np
import pytest

from wbcli.data.batches.sampling import (
    SAMPLINGS,
    class_probabilities,
    epoch_order,
    occurrences,
)

DRAWN = ("balanced", "sqrt", "progressive", "reversed")
LABELS = np.repeat([0, 2, 3], [20, 8, 4])  # class 1 has no images
MIXED = np.random.default_rng(0).permutation(LABELS)


@pytest.mark.parametrize(
    ("name", "counts", "progress", "expected"),
    [
        ("balanced", (4, 2, 1), 0, (1 / 3, 1 / 3, 1 / 3)),
        ("sqrt", (4, 2, 1), 0, (0.453082, 0.320377, 0.226541)),  # 2, 1.414214, 1 over 4.414214
        ("progressive", (4, 2, 1), 0, (4 / 7, 2 / 7, 1 / 7)),
        ("progressive", (4, 2, 1), 0.5, (0.452381, 0.309524, 0.238095)),
        ("progressive", (4, 2, 1), 1, (1 / 3, 1 / 3, 1 / 3)),
        ("reversed", (100, 10, 1), 0, (0.009009, 0.090090, 0.900901)),  # 1, 10, 100 over 111
        ("balanced", (4, 0, 1), 0, (1 / 2, 0, 1 / 2)),
        ("sqrt", (4, 0, 1), 0, (2 / 3, 0, 1 / 3)),
        ("progressive", (4, 0, 1), 0.5, (0.65, 0, 0.35)),  # halves of (0.8, 0.2) and (0.5, 0.5)
        ("reversed", (4, 0, 1), 0, (0.2, 0, 0.8)),
    ],
)
def test_how_often_a_class_is_drawn(name, counts, progress, expected):
    found = class_probabilities(name, np.array(counts), progress)
    assert found == pytest.approx(expected, abs=5e-7)
    assert found.sum() == pytest.approx(1)


def test_the_images_of_a_class_share_its_probability():
    """Balanced, n = (4, 2, 1): an image is drawn with probability 1/12, 1/6, 1/3."""
    labels = np.array([0, 1, 0, 2, 0, 1, 0])
    drawn = np.concatenate([epoch_order("balanced", labels, 3, epoch) for epoch in range(4000)])
    expected = np.array([1 / 12, 1 / 6, 1 / 12, 1 / 3, 1 / 12, 1 / 6, 1 / 12])
    shares = np.bincount(drawn, minlength=7) / len(drawn)
    errors = np.sqrt(expected * (1 - expected) / len(drawn))
    assert (abs(shares - expected) < 4 * errors).all()


@pytest.mark.parametrize("name", DRAWN)
def test_classes_come_as_often_as_their_probability_says(name):
    orders = [epoch_order(name, MIXED, 1, epoch, 0.25) for epoch in range(2000)]
    shares = np.bincount(MIXED[np.concatenate(orders)], minlength=4) / (2000 * len(MIXED))
    expected = class_probabilities(name, np.array([20, 0, 8, 4]), 0.25)
    assert shares == pytest.approx(expected, abs=4 * np.sqrt(0.25 / (2000 * len(MIXED))))


def test_instance_is_the_permutation_that_it_always_was():
    for seed, epoch in [(0, 0), (3, 7)]:
        expected = np.random.default_rng([seed, epoch]).permutation(len(MIXED))
        assert (epoch_order("instance", MIXED, seed, epoch) == expected).all()
        assert (epoch_order("instance", MIXED, seed, epoch, progress=0.5) == expected).all()


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("stream", [0, 1])
def test_an_order_is_a_function_of_seed_epoch_name_and_stream(name, stream):
    def order(seed, epoch, stream):
        return epoch_order(name, MIXED, seed, epoch, 0.5, stream).tolist()

    first = order(5, 2, stream)
    assert len(first) == len(MIXED) and set(first) <= set(range(len(MIXED)))
    np.random.seed(1)  # whatever else is drawn
    assert order(5, 2, stream) == first
    for other in [(6, 2, stream), (5, 3, stream), (5, 2, 1 - stream)]:
        assert order(*other) != first


@pytest.mark.parametrize("name", SAMPLINGS)
def test_no_two_names_or_streams_go_through_the_same_order(name):
    """Nor through one that is another's, shifted: they share no image at more places than chance.

    1000 images: two random orders agree at one place, give or take three.
    """
    labels = np.repeat([0, 1, 2, 3], [400, 300, 200, 100])
    orders = {
        (other, stream): epoch_order(other, labels, 0, 0, 0.5, stream)
        for other in SAMPLINGS
        for stream in (0, 1)
    }
    own = orders.pop((name, 0))
    for key, order in orders.items():
        assert (own == order).sum() < 20, key


@pytest.mark.parametrize("stream", [0, 1])
def test_every_image_comes_once_in_either_stream_of_instance(stream):
    order = epoch_order("instance", MIXED, 0, 0, stream=stream)
    assert sorted(order) == list(range(len(MIXED)))


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_class_without_images_is_never_drawn(name):
    """Class 1 has none; neither has the one behind the last label."""
    for labels in (LABELS, MIXED):
        for epoch in range(20):
            order = epoch_order(name, labels, 0, epoch, 0.9)
            assert set(labels[order]) <= {0, 2, 3}


def test_class_aware_takes_classes_in_turns_and_four_images_of_each():
    """32 images of three classes: three rounds of twelve, the last one cut after eight."""
    rounds = set()
    for epoch in range(20):
        classes = MIXED[epoch_order("class-aware", MIXED, 0, epoch)].reshape(8, 4)
        assert (classes == classes[:, :1]).all()
        turns = classes[:, 0].tolist()
        assert sorted(turns[:3]) == sorted(turns[3:6]) == [0, 2, 3]
        assert len(set(turns[6:])) == 2
        rounds |= {tuple(turns[:3]), tuple(turns[3:6])}
    assert len(rounds) == 6, "in every order that there is"


def test_class_aware_shows_every_image_of_a_class_before_one_comes_again():
    """Class 3 has the four images of a turn; of class 2, eight, two turns show each once."""
    for epoch in range(20):
        order = epoch_order("class-aware", MIXED, 0, epoch)
        for k, size in ((0, 20), (2, 8), (3, 4)):
            own, drawn = np.flatnonzero(k == MIXED).tolist(), order[MIXED[order] == k].tolist()
            cycles = [drawn[start : start + size] for start in range(0, len(drawn), size)]
            for cycle in cycles:
                assert len(set(cycle)) == len(cycle)
                assert sorted(cycle) == own or len(cycle) < size


def test_class_aware_repeats_the_only_image_of_a_class():
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    order = epoch_order("class-aware", labels, 0, 0)
    assert order.tolist().count(7) == 4


def test_how_often_an_entry_stood_there_before():
    assert occurrences(np.array([3, 1, 3, 3, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]
    assert occurrences(np.arange(4)[::-1]).tolist() == [0, 0, 0, 0]
