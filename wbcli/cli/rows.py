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


def never_clipped(settings: Config, row: dict, started: list[float] | None) -> str:
    """Why MaxNorm held no row at the end, and what did the work instead.

    Args:
        row: metrics of the last epoch.
        started: row norms of the classifier that stage 2 started from; None: not known, or fresh.
    """
    from wbcli.balance.radius import TOLERANCE

    radius = row["radius"] if isinstance(row["radius"], list) else [row["radius"]]
    shortened = sum(norm > (1 + TOLERANCE) * radius[0] for norm in started or ())
    reason, worker = "they stay inside", f"the loss {settings.loss}"
    if settings.wd:
        reason = f"weight decay {settings.wd:g} on the loss {settings.loss} keeps them inside"
        worker += " and weight decay"
    share = f"So {worker} did the work here, MaxNorm none of it"
    if shortened:
        share = (
            f"MaxNorm shortened {shortened} of {len(started)} rows in the first step; from then on "
            f"{worker} did the work"
        )
    lower = "--maxnorm" if settings.maxnorm else "--radius"
    if settings.wd:
        lower = f"--wd or {lower}"
    return (
        f"MaxNorm clipped no row in the last epoch: classifier rows are "
        f"{min(row['row_norms']):.4g} to {max(row['row_norms']):.4g} long, the radius is "
        f"{', '.join(f'{r:.4g}' for r in radius)}, and {reason}. {share}; it binds with a "
        f"lower {lower}"
    )
