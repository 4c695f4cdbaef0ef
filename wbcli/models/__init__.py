"""Networks: backbones to features, and the classifiers on them."""

from wbcli.models.networks import Network

__all__ = ["Network"]
