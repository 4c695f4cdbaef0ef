"""A batch in parts."""

import pytest
import torch

from wbcli.methods import Batch

IMAGES = torch.arange(7.0)[:, None]
LABELS = torch.arange(7)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [7]), (2, [4, 3]), (3, [3, 2, 2]), (4, [3, 2, 2]), (9, [3, 2, 2])]
)
def test_a_part_has_two_images_at_least(count, sizes):
    """Batch norm has no variance over one image."""
    parts = list(Batch(IMAGES, LABELS).parts(count))
    assert [len(part) for part in parts] == sizes
    assert torch.cat([part.labels for part in parts]).tolist() == list(range(7))


def test_a_batch_of_one_image_is_its_only_part():
    batch = Batch(IMAGES[:1], LABELS[:1])
    assert list(batch.parts(2)) == [batch]


def test_everything_with_a_row_for_each_image_is_cut_and_the_rest_is_every_part_s():
    batch = Batch(
        [IMAGES, IMAGES + 10],
        LABELS,
        other_images=[IMAGES + 20, IMAGES + 30],
        other_labels=LABELS + 40,
        index=LABELS + 50,
        key=(3, 2, 1),
        labels2=LABELS + 60,
        lam=IMAGES[:, 0] / 10,
    )
    first, second = batch.parts(2)
    assert [view.flatten().tolist() for view in second.images] == [[4, 5, 6], [14, 15, 16]]
    assert [view.flatten().tolist() for view in second.other_images] == [[24, 25, 26], [34, 35, 36]]
    assert second.other_labels.tolist() == [44, 45, 46]
    assert second.index.tolist() == [54, 55, 56]
    assert second.labels2.tolist() == [64, 65, 66]
    assert second.lam.tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert first.key == second.key == (3, 2, 1)


@pytest.mark.parametrize("lam", [0.25, torch.tensor(0.25)])
def test_a_share_of_the_whole_batch_is_that_of_its_parts(lam):
    parts = list(Batch(IMAGES, LABELS, lam=lam).parts(2))
    assert [part.lam for part in parts] == [lam, lam]
    assert parts[0].other_images is parts[0].labels2 is None
