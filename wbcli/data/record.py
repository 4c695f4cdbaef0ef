"""What a run recorded of the data set that trained it, and how the data set differs from it now."""

from dataclasses import dataclass

import numpy as np

from wbcli.data.chosen import Chosen
from wbcli.words import are, composed, counted, quoted

REMEDY = "put them back as they were, or train anew"


@dataclass(frozen=True)
class Record:
    """What a run recorded; None for what the version of wbcli that wrote it did not.

    run: what it is called in a message. original_counts: images of each class before any were
    held out. images: which trained and which were held out.
    """

    run: str
    class_names: list[str] | None
    class_counts: list[int] | None
    original_counts: list[int] | None
    limits: dict[str, int]
    images: Chosen | None

    def changed(self, *what: str) -> str:
        """The sentence that says how the data set differs."""
        return f"the data set has changed since run {self.run} trained: {'; '.join(what)}"

    def changed_counts(self, class_counts: list[int]) -> str:
        """That sentence for a run of which nothing but its counts is known."""
        before, now = np.array(self.class_counts), np.array(class_counts)
        k = np.flatnonzero(before != now)[0]
        return self.changed(
            f"{before.sum()} training images then, {now.sum()} now, of class {k} {before[k]} then "
            f"and {now[k]} now"
        )

    def unchecked_hold_out(self) -> str:
        return (
            f"which images run {self.run} holds out was computed anew, since an older version of "
            "wbcli did not record it: that they have not trained it cannot be checked"
        )

    def unknown_groups(self) -> str:
        return (
            f"run {self.run} does not say how many images its classes had, as older versions of "
            "wbcli did not: which are Many, Medium and Few is not known"
        )


def check_classes(run: str, before: list[str] | None, now: list[str]) -> None:
    """Raises ValueError where the classes of a data set are not those that a run recorded."""
    now = [name.encode("utf-8", "backslashreplace").decode() for name in now]
    if before is None:
        return
    pairs = enumerate(zip(before, now, strict=False))
    k = next((k for k, (then, here) in pairs if composed(then) != composed(here)), None)
    if k is None and len(before) == len(now):
        return
    what = "" if k is None else f": class {k} was {quoted(before[k])} and is {quoted(now[k])}"
    raise ValueError(
        f"the data set has other classes than run {run} was trained on{what} "
        f"({len(before)} then, {len(now)} now): {REMEDY}"
    )


def unused(new: np.ndarray, noun: str) -> str:
    """What is said of new images, int64 [K]; empty where there are none."""
    count, classes = int(new.sum()), counted(int((new > 0).sum()), "class")
    return f"{counted(count, f'new {noun}')} in {classes} {are(count)} not used" if count else ""
