"""The checkpoints of a run: tensors and plain containers, checked when they are read."""

import io
from pathlib import Path
from typing import Any

from wbcli.files.storage import write_file

IMAGES = "images.json.gz"
REMEDIES = {
    "checkpoint.pt": "delete it to start this run anew",
    "best.pt": "without it, --checkpoint last reads the last epoch",
    IMAGES: "without it nothing says which images the run held out: put it back as it was, or "
    "train anew",
}
STATES = {  # what the two checkpoints hold, and of which type
    "checkpoint.pt": {
        "settings": dict,
        "epoch": int,
        "step": int,
        "row": dict | None,
        "loss_sum": float,
        "hits": int,
        "seconds": float,
        "model": dict,
        "optimizer": dict,
        "radii": list,
        "best": dict | None,
        "metrics": str,
    },
    "best.pt": {"epoch": int, "model": dict, "accuracy": float},
}


def write_state(path: Path, state: dict[str, Any]) -> None:
    import torch

    content = io.BytesIO()
    try:
        torch.save(state, content)
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        raise MemoryError(f"for {path.name}") from error  # as PyTorch reports it
    write_file(path, content.getbuffer())


def read_state(run: str, path: Path) -> dict[str, Any]:
    """Raises ValueError when the file is torn or holds more than tensors and containers."""
    from wbcli.files import weights

    wanted, remedy = STATES[path.name], REMEDIES[path.name]
    try:
        state = weights.read_state(path)
    except FileNotFoundError:
        raise ValueError(f"run {run} has no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; {remedy}") from error
    wrong = [key for key in wanted if not isinstance(state.get(key, ...), wanted[key])]
    if wrong:
        raise ValueError(
            f"{path} lacks {', '.join(sorted(wrong))}: it is of another version of wbcli, or "
            f"was changed; {remedy}"
        )
    return state
