"""A row of the paper's tables: what stage 1 it has, and what follows."""

from dataclasses import dataclass
from typing import Any

Preset = dict[str, Any]  # wd, lr, maxnorm, tau, loss: options of stage 2 and of normalize
LOSSES = {"CE": "ce", "LA": "logit-adjustment"}  # CB is the one of the preset
CUT = "MaxNorm post hoc"  # the projection alone, after steps too short to move a weight
STILL = 1e-12  # the learning rate of these
POST_HOC = {"tau-norm": "tau", "L2-norm": "tau", "LA post hoc": "logit-adjustment"}


@dataclass(frozen=True)
class Row:
    """A row of a table: stage 1 with λ = 0 (`naive`) or tuned, and what follows it.

    after: None, one of POST_HOC, CUT, or losses and constraints such as `CB + WD + MaxNorm`, for
        the last `layers` layers. LA is logit adjustment.
    epochs: of stage 2; None: those of the recipe.
    """

    tuned: bool
    after: str | None = None
    layers: int = 0
    epochs: int | None = None

    @property
    def name(self) -> str:
        first = "WD" if self.tuned else "naive"
        return f"{first}, then {self.after}" if self.after else first

    @property
    def title(self) -> str:
        """The name, and how many layers where they are several."""
        return self.name + (f", {self.layers} layers" if self.layers > 1 else "")

    def searched(self) -> tuple[str, ...]:
        """The options that a search may vary in this row."""
        if not self.layers:
            return ("tau",) if self.after in ("tau-norm", "LA post hoc") else ()
        if self.after == CUT:
            return ("maxnorm",)
        parts = self.parts()
        return ("lr",) + ("wd",) * ("WD" in parts) + ("maxnorm",) * ("MaxNorm" in parts)

    def parts(self) -> frozenset[str]:
        """The loss, and what holds the rows back."""
        return frozenset(self.after.split(" + ")) if self.after else frozenset()

    def stage2_options(self, values: Preset, default_wd: float) -> dict[str, Any]:
        """Options of stage 2; what the row does not name is off."""
        parts = self.parts()
        if self.after == CUT:
            parts, values = {"CE", "MaxNorm"}, values | {"lr": STILL}
        wd = values["wd"] if "WD" in parts else default_wd if "default WD" in parts else 0.0
        options = {
            "layers": self.layers,
            "loss": next((LOSSES[p] for p in LOSSES if p in parts), values.get("loss", "cb")),
            "lr": values["lr"],
            "wd": wd,
            "epochs": self.epochs,
        }
        if "L2-norm" in parts:
            return options | {"unit_norm": True}
        return options | {"maxnorm": values["maxnorm"] if "MaxNorm" in parts else "none"}
