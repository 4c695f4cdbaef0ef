"""Networks: backbones and classifiers."""
