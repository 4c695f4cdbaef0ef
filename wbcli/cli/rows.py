"""What a command says of the rows of a classifier and of what holds them back."""

from collections.abc import Iterator

from wbcli.config.settings import Config

UNIT = ("cosine", "etf")  # classifiers whose rows count as directions
WORDS = {"cosine": "a cosine", "etf": "a fixed simplex", "normalised": "the normalised one"}


def about_rows(settings: Config, parent: Config) -> Iterator[str]:
    """What MaxNorm does, or does not, on the classifier that stage 2 starts from."""
    head = parent.heads[-1][0]
    words = WORDS.get(head)
    if settings.classifier == "fresh":
        if settings.method == "wb" and not settings.constraint():
            yield (
                "a fresh classifier has no rows that a relative threshold could be placed between: "
                "it trains without MaxNorm unless --radius is given"
            )
    elif words:
        text = f"the run's classifier is {words}: {settings.method} starts from the linear layer "
        text += "that equals it"
        if head in UNIT and settings.maxnorm is not None:
            text += (
                ", whose rows have length 1, so that MaxNorm has the radius 1 at every --maxnorm "
                "(--radius sets another)"
            )
        yield text


def never_clipped(settings: Config, row: dict) -> str:
    radius = row["radius"] if isinstance(row["radius"], list) else [row["radius"]]
    reason, worker, remedy = (
        "they never grew to it",
        f"the loss {settings.loss}",
        "a lower threshold",
    )
    if settings.wd:
        reason = f"weight decay {settings.wd:g} on the loss {settings.loss} keeps them inside"
        worker, remedy = "weight decay", "a lower --wd or threshold"
    return (
        f"MaxNorm clipped no row in the last epoch: classifier rows are "
        f"{min(row['row_norms']):.4g} to {max(row['row_norms']):.4g} long, the radius is "
        f"{', '.join(f'{r:.4g}' for r in radius)}, and {reason}. So {worker} did the work here, "
        f"MaxNorm none of it; it binds with {remedy}"
    )
