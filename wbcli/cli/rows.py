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


def not_held(settings: Config, rows: list[dict]) -> str:
    """That MaxNorm held no row at the end, what it did before, and what did the rest.

    Args:
        rows: metrics of the epochs; `started_above` is not known of older runs.
    """
    last, worker, loss = rows[-1], "the loss", f"the loss {settings.loss}"
    if settings.wd:
        worker, loss = "the loss and weight decay", f"{loss} with weight decay {settings.wd:g}"
    longest = max(last["row_norms"])
    radii = last["radius"] if isinstance(last["radius"], list) else [last["radius"]]
    text = (
        f"MaxNorm held no row in the last epoch: {loss} leaves classifier rows of "
        f"{min(last['row_norms']):.4g} to {longest:.4g} inside the radius "
        f"{', '.join(f'{radius:.4g}' for radius in radii)}. "
    )
    held = [row["epoch"] for row in rows if row.get("clipped_fraction")]
    above = last.get("started_above")
    if held:
        text += f"It held some until epoch {held[-1]} of {len(rows)}, {worker} did the rest"
    elif above:
        text += f"{100 * above:.0f} % of the rows began above it, but none was held after an epoch"
        text += f": {worker} did the rest"
    elif above == 0:
        text += f"None began above it: {worker} did the work here, MaxNorm none of it"
    else:
        text += "None was held after an epoch"
    return f"{text}; a --radius below {longest:.4g} binds"
