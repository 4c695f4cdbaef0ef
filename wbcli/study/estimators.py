"""Balanced accuracy of the scikit-learn estimator beside LogisticRegression, on small sets:
`python -m wbcli.study.estimators [FILE.npz]...` prints a table in Markdown.

Every set is thinned to be long-tailed and divided anew for each of ten seeds; a file of features
has its own splits, so that there a seed is that of the training alone. Features are standardised by
the rows that train. The defaults of ours were chosen on divisions of other seeds (100, 101).
"""

import sys
from collections.abc import Iterator

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wbcli.bench.head import Rows, rows_of
from wbcli.config.resolve import resolve_stage1
from wbcli.data.recorded import for_run
from wbcli.sklearn import WeightBalancedClassifier

SEEDS = range(10)
TEST = 70  # rows of each class that measure, at most half of them
DIGITS = [int(104 * 50 ** (-k / 9)) for k in range(10)]  # imbalance factor 50


def sets(seed: int) -> Iterator[Rows]:
    yield thinned("digits, IF 50", *load_digits(return_X_y=True), DIGITS, seed)
    x, y = load_breast_cancer(return_X_y=True)
    yield thinned("breast cancer, 250 benign, 12 malignant", x, 1 - y, [250, 12], seed)
    made = make_classification(
        2000,
        20,
        n_informative=8,
        n_redundant=4,
        n_classes=5,
        n_clusters_per_class=1,
        weights=[0.65, 0.22, 0.08, 0.03],
        random_state=seed,
    )
    yield thinned("make_classification, 5 classes of 65 to 2 %", *made, [2000] * 5, seed)


def thinned(name: str, x: np.ndarray, y: np.ndarray, counts: list[int], seed: int) -> Rows:
    """Of each class TEST rows that measure, and at most so many others that train."""
    generator = np.random.default_rng(seed)
    train, test = [], []
    for k, count in enumerate(counts):
        places = generator.permutation(np.flatnonzero(y == k))
        measured = min(len(places) // 2, TEST)
        test.append(places[:measured])
        train.append(places[measured:][:count])
    train, test = np.concatenate(train), np.concatenate(test)
    return Rows(name, x[train], y[train], x[test], y[test])


def ways(seed: int) -> dict[str, ClassifierMixin]:
    balanced = {"class_weight": "balanced"}
    return {
        "LogisticRegression": LogisticRegression(max_iter=5000),
        "LogisticRegression, balanced": LogisticRegression(max_iter=5000, **balanced),
        "WeightBalancedClassifier": WeightBalancedClassifier(seed=seed, device="cpu"),
    }


def measure(files: list[str]) -> dict[str, dict[str, list[float]]]:
    """Balanced accuracy in per cent by set, way and seed."""
    given = [{"dataset": name, "data_dir": ".", "precision": "fp32"} for name in files]
    fixed = [rows_of(for_run(resolve_stage1(one))) for one in given]
    found: dict[str, dict[str, list[float]]] = {}
    for seed in SEEDS:
        for rows in [*sets(seed), *fixed]:
            for name, way in ways(seed).items():
                predicted = (
                    make_pipeline(StandardScaler(), way).fit(rows.x, rows.y).predict(rows.test_x)
                )
                score = 100 * balanced_accuracy_score(rows.test_y, predicted)
                found.setdefault(rows.name, {}).setdefault(name, []).append(score)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    names = list(ways(0))
    lines = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for rows, scores in found.items():
        cells = [f"{np.mean(scores[n]):.1f} ± {np.std(scores[n], ddof=1):.1f}" for n in names]
        lines.append(f"| {rows} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure(sys.argv[1:])))
