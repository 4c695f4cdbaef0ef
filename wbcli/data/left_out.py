"""Files of a data set that are left out, and problems with the rest."""

import shlex

import numpy as np

from wbcli.data.pictures.decoding import Pictures
from wbcli.files.readers import Arrays, Content
from wbcli.words import counted


def usable(content: Content, name: str, left_out: set[str], whole: bool = True) -> Content:
    """The content but for files that are left out; other problems are an error.

    Args:
        whole: a split of which nothing is left is an error, too.
    """
    problems = [p for p in content.problems if p.file not in left_out]
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(
            f"{problems[0].text}{others}: wbcli data check {shlex.quote(name)} names them all"
            + (", --skip-broken leaves them out" if all(p.file for p in problems) else "")
        )
    if not left_out:
        return content
    train, test, val = (
        split and _without(split, left_out, whole)
        for split in (content.train, content.test, content.val)
    )
    return content._replace(train=train, test=test, val=val)


def no_test_pictures(content: Content) -> set[str]:
    """Files with problems that are not for testing: what a run needs of them its record says."""
    files = {problem.file for problem in content.problems if problem.file}
    if files and content.test:
        files -= {content.test[0].name(i) for i in range(len(content.test[0]))}
    return files


def _without(split: Arrays, absent: set[str], whole: bool) -> Arrays:
    """The split but for pictures of these names."""
    pictures, labels = split
    if not isinstance(pictures, Pictures):
        raise ValueError("left_out: this set has no files that could be left out")
    stays = [i for i in range(len(pictures)) if pictures.name(i) not in absent]
    if whole and not stays:
        raise ValueError(
            f"nothing is left of {counted(len(pictures), 'picture')} such as "
            f"{pictures.describe(0)}: broken or missing"
        )
    index = np.array(stays, dtype=np.int64)
    return pictures[index], labels[index]
