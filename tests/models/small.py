"""A vision transformer of torchvision, small enough for a test, by the name of a large one."""

from torchvision.models import vision_transformer

VIT = "torchvision:vit_b_16"


def shrink(monkeypatch) -> None:
    """Make `vit_b_16` two layers of 32 numbers; all else is torchvision's."""
    made = vision_transformer._vision_transformer
    small = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}

    def make(**options):
        return made(**options | small)

    monkeypatch.setattr(vision_transformer, "_vision_transformer", make)
