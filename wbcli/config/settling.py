"""A method among the settings: its loss, its own options, its classifier, and the constraint."""

from typing import Any

from wbcli.config.checks import option_name
from wbcli.config.methods import (
    LINEAR,
    OWN,
    STAY_LINEAR,
    Entry,
    entry_of,
    settle_head,
    settle_options,
)
from wbcli.config.settings import LOSSES, SHARED

CONSTRAINTS = ("maxnorm", "radius", "unit_norm")


def check_one_constraint(options: dict[str, Any]) -> None:
    given = [name for name in CONSTRAINTS if options.get(name) not in (None, False, "none")]
    if len(given) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{flags} exclude each other: give one of them")


def check_rows(options: dict[str, Any]) -> None:
    """Refuse a constraint on rows whose lengths change nothing, or that do not train."""
    ((head, _),) = options["heads"]
    given = [key for key in ("radius", "unit_norm") if options.get(key)]
    if given and head in ("cosine", "etf"):
        raise ValueError(
            f"{option_name(given[0])}: the logits of a classifier of the kind {head} do not depend "
            "on lengths of rows that train, so that it would change nothing: leave it out"
        )


def settle_method(stage: int, method: str, options: dict[str, Any]) -> None:
    """Put the method's own options where the settings have them, in place."""
    entry = entry_of(stage, method)
    taken = [key for key in OWN if key not in SHARED]
    if stage == 1:
        if "defer_from" in options and not (options.get("defer") or "defer" in entry.fixed):
            raise ValueError("--defer-from: nothing is deferred without --defer drw or drs")
        taken = [*OWN, "beta"]
    own = {key: options.pop(key) for key in taken if key in options}
    shared = [key for key in SHARED if stage == 0 or key in taken]
    own |= {key: options[key] for key in SHARED if stage != 1 and key in options}
    if stage == 1:
        head, chosen = settle_head(method, entry, options.pop("head", None), own)
        options["heads"] = ((head, chosen),)
        own = {k: value for k, value in own.items() if k in entry.options or k not in chosen}
    chosen = settle_options(method, entry.options, own)
    options |= {key: chosen[key] for key in shared if key in chosen}
    chosen = {key: value for key, value in chosen.items() if key not in SHARED}
    options |= {"method": method, "method_options": chosen}
    if "defer" in entry.fixed:
        options["defer"] = entry.fixed["defer"]


def method_of_stage1(options: dict[str, Any], recipe: dict[str, Any]) -> str:
    """Of a method that is a loss, --method and --loss say the same."""
    method, loss = options.get("method"), options.get("loss")
    if method is None:
        return loss or recipe["loss"]
    if method in LOSSES:
        if loss not in (None, method):
            raise ValueError(f"--loss {loss}: --method {method} is a loss itself, give one of them")
        options["loss"] = method
    elif loss:
        raise ValueError(f"--loss {loss}: the method {method} has a loss of its own")
    else:
        recipe["loss"] = None
    return method


def own_defaults(method: str, entry: Entry, options: dict[str, Any]) -> dict[str, Any]:
    """What a stage-2 method has for a default instead of the recipe; refuses a constraint that
    would act on nothing.
    """
    given = [key for key in CONSTRAINTS if options.get(key) not in (None, False)]
    if given and not entry.rows:
        raise ValueError(
            f"{option_name(given[0])}: {method} keeps the rows of the classifier as they are and "
            "trains numbers beside them, so that there is none to constrain: leave it out"
        )
    own = {key: option.default for key, option in entry.settings.items()}
    if not entry.rows:
        own["maxnorm"] = None
    if "loss" not in entry.options:
        own["loss"] = entry.fixed.get("loss")
    if options["classifier"] == "fresh":
        if options.get("maxnorm") is not None:
            raise ValueError(
                f"--maxnorm {options['maxnorm']:g} places the radius between the rows of the run's "
                "classifier, and a fresh one has not learned any: give the radius itself (--radius)"
            )
        own["maxnorm"] = None
    return own


def start_of(method: str, given: str | None) -> str:
    """What becomes of the run's classifier in stage 2."""
    can = entry_of(2, method).heads
    if given not in (None, *can):
        raise ValueError(f"--classifier {given}: the method {method} needs {' or '.join(can)}")
    return given or can[0]


def followed_by(heads: tuple, step: str, options: dict[str, Any] | None = None) -> tuple:
    """How the classifier came to be, with one step more; a linear one stays one."""
    plain = heads == LINEAR and step in STAY_LINEAR
    return heads if plain else (*heads, (step, options or {}))
