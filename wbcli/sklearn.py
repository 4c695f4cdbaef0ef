"""Weight balancing as a scikit-learn estimator, for people who have features.

    from wbcli.sklearn import WeightBalancedClassifier

It needs scikit-learn: pip install 'wbcli[sklearn]'.

Legend: N rows, D features, K classes.
"""

import numpy as np
import torch

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"wbcli.sklearn needs scikit-learn 1.6 or newer ({error}): pip install 'wbcli[sklearn]'"
    ) from error

from wbcli.deploy.probe import balanced_head
from wbcli.models.feature_maps import Standard, unit


class WeightBalancedClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier that is fair to rare classes: `wbcli.balanced_head` on arrays.

    Parameters are called as the options of wbcli, those of stage 2 with `stage2_` where stage 1 has
    the same: see `balanced_head`. The same data and `seed` give the same classifier.

    Attributes:
        classes_: the labels [K], sorted.
        coef_, intercept_: float64 [K, D] and [K]: scores are X @ coef_.T + intercept_; with
            `normalise="l2"` of rows of X that are divided by their length first.
        row_norms_: ‖w_k‖ [K] of the classifier as it was trained, on normalised features.
        radius_, clipped_fraction_: δ, and the share of rows that it holds back; None without
            MaxNorm.
        temperature_: T of softmax(scores/T); 1 unless `calibrate`.
    """

    def __init__(
        self,
        *,
        epochs=None,
        lr=0.05,
        wd=5e-3,
        stage2_epochs=None,
        stage2_lr=0.05,
        stage2_wd=1e-2,
        loss="cb",
        beta=0.9999,
        maxnorm=0.1,
        radius=None,
        unit_norm=False,
        momentum=0.9,
        batch_size=64,
        normalise="standard",
        calibrate=False,
        device="auto",
        seed=0,
    ):
        self.epochs = epochs
        self.lr = lr
        self.wd = wd
        self.stage2_epochs = stage2_epochs
        self.stage2_lr = stage2_lr
        self.stage2_wd = stage2_wd
        self.loss = loss
        self.beta = beta
        self.maxnorm = maxnorm
        self.radius = radius
        self.unit_norm = unit_norm
        self.momentum = momentum
        self.batch_size = batch_size
        self.normalise = normalise
        self.calibrate = calibrate
        self.device = device
        self.seed = seed

    def fit(self, X, y):
        """Train on rows X [N, D] and labels y [N] of any kind; returns itself."""
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"expected rows of at least two classes, got one class: {self.classes_[0]!r}"
            )
        options = {  # a search draws numbers of NumPy's kinds
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in self.get_params(deep=False).items()
        }
        found = balanced_head(torch.from_numpy(np.array(X)), torch.from_numpy(labels), **options)
        classifier = found.network.classifier.cpu()
        self._keep(found.network.backbone.cpu(), classifier.weight, classifier.bias)
        self.row_norms_ = classifier.row_norms().numpy()
        self.radius_, self.clipped_fraction_ = found.radius, found.clipped_fraction
        self.temperature_ = found.temperature or 1.0
        return self

    def decision_function(self, X):
        """Scores [N, K]; of two classes the second's over the first's, [N]."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X):
        """softmax(scores / temperature_), [N, K]."""
        scores = self._scores(X) / self.temperature_
        found = np.exp(scores - scores.max(1, keepdims=True))
        return found / found.sum(1, keepdims=True)

    def predict(self, X):
        """The label of each row, [N]."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(1)]

    def _scores(self, X) -> np.ndarray:
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        rows = rows.astype(np.float64)
        if self.normalise == "l2":
            rows = unit(torch.from_numpy(rows)).numpy()
        return rows @ self.coef_.T + self.intercept_

    def _keep(self, backbone, weight, bias) -> None:
        """The classifier as one matrix, with the standardisation of features in it."""
        weight, bias = weight.detach().double(), bias.detach().double()
        if isinstance(backbone, Standard):
            weight = weight / backbone.std.double()
            bias = bias - weight @ backbone.mean.double()
        self.coef_, self.intercept_ = weight.numpy(), bias.numpy()
