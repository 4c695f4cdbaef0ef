"""What a run recorded of the data set that trained it, and how the data set differs from it now."""

from dataclasses import dataclass

import numpy as np

from wbcli.data.chosen import Chosen
from wbcli.words import are, composed, counted, quoted

REMEDY = "put them back as they were, or train anew"


class OtherClasses(ValueError):
    """A data set that has other classes than a run."""


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
        unchecked = "that they have not trained it cannot be checked"
        if self.images is None and self.original_counts is not None:  # of a version with both
            return (
                f"run {self.run} has no images.json.gz, and nothing else says which images it held "
                f"out: {unchecked}; put the file back, or train anew"
            )
        return (
            f"which images run {self.run} holds out was computed anew, since an older version of "
            f"wbcli did not record it: {unchecked}"
        )

    def contradiction(self, by_name: bool, once: bool, apart: bool) -> str:
        """What of it cannot be true; empty where nothing is.

        Args:
            by_name: the images of this data set are known by their names.
            once: none stands twice in it, as it may in a list.
            apart: see `Chosen.twice`.
        """
        if self.class_counts and self.original_counts:
            pairs = enumerate(zip(self.original_counts, self.class_counts, strict=True))
            if less := next(((k, *pair) for k, pair in pairs if pair[0] < pair[1]), None):
                return "config.json has for class {} original_counts {}, class_counts {}".format(
                    *less
                )
        if self.images is None:
            return ""
        for key in ("class_names", "class_counts"):
            if getattr(self, key) is None:
                return f"config.json lacks {key}"
        if self.images.counts() != self.class_counts:
            return (
                "images.json.gz has other class counts than config.json: one of them is of "
                "another run"
            )
        if self.images.named() is not by_name:
            kinds = ("names", "indices") if by_name else ("indices", "names")
            return "images.json.gz has {1} where this data set has {0}".format(*kinds)
        if once and (key := self.images.twice(apart)):
            return f"images.json.gz has {key} twice"
        return ""

    def unknown_groups(self) -> str:
        return (
            f"run {self.run} does not say how many images its classes had, as older versions of "
            "wbcli did not: which are Many, Medium and Few is not known"
        )


def check_classes(run: str, before: list[str] | None, now: list[str]) -> None:
    """Raises OtherClasses where the classes of a data set are not those that a run recorded."""
    now = [name.encode("utf-8", "backslashreplace").decode() for name in now]
    if before is None:
        return
    pairs = enumerate(zip(before, now, strict=False))
    k = next((k for k, (then, here) in pairs if composed(then) != composed(here)), None)
    if k is None and len(before) == len(now):
        return
    what = "" if k is None else f": class {k} was {quoted(before[k])} and is {quoted(now[k])}"
    raise OtherClasses(
        f"the data set has other classes than run {run} was trained on{what} "
        f"({len(before)} then, {len(now)} now): {REMEDY}"
    )


def unused(new: np.ndarray, noun: str) -> str:
    """What is said of new images, int64 [K]; empty where there are none."""
    count, classes = int(new.sum()), counted(int((new > 0).sum()), "class")
    return f"{counted(count, f'new {noun}')} in {classes} {are(count)} not used" if count else ""
