"""The pages of docs/ that are made from the code: `python -m wbcli.cli.pages` writes them.

options.md is what the commands say of themselves, recipes.md the defaults and where they come from,
methods.md what each method says of itself.
"""

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click

from wbcli.cli import cli
from wbcli.config.checks import option_name
from wbcli.config.published import PUBLISHED
from wbcli.config.recipes import DEFAULTS, SOURCES, Default
from wbcli.methods.make import described

DOCS = Path(__file__).parents[2] / "docs"
TRAINS = ("stage1", "stage2", "tune stage1", "tune stage2", "reproduce")

OPTIONS = """# Commands and their options

What `wbcli --help` and `wbcli COMMAND --help` say, on one page. By task: [using.md](using.md).

- Options that every command has stand [at the end](#of-every-command), and those of everything
  that trains [before them](#of-every-training).
- A setting of a training that you leave out comes from the recipe: [recipes.md](recipes.md).
- Every option can come from the environment: `WBCLI_WD=5e-3`, or `WBCLI_STAGE1_WD=5e-3` for one
  command (`WBCLI_TUNE_STAGE1_WD` for `tune stage1`). `WBCLI_DATA` and `WBCLI_RUNS` are the folders
  of the data and of the runs. The command line wins.
- RUN is a run's name in the runs folder, or a path.
"""

COLUMNS = {  # heading in the tables of recipes: settings that share the cell
    "network": ["arch", "init"],
    "size": ["image_size"],
    "epochs": ["epochs"],
    "batch": ["batch_size"],
    "lr": ["lr", "cosine_end"],
    "backbone": ["backbone_lr_factor"],
    "λ": ["wd"],
    "loss": ["loss"],
    "t": ["maxnorm", "project"],
    "layers": ["layers"],
    "views": ["views"],
    "frozen batch norm": ["frozen_batch_norm"],
    "checkpoint": ["checkpoint"],
    "mirror": ["tta"],
}

RECIPES = """# Recipes: every default, and where it comes from

What you do not give on the command line comes from a recipe. `wbcli stage1 DATASET --dry-run`
prints every setting that a training would have.

- `--recipe paper` (default) follows the paper's text. Where the text is silent, it takes what is
  known to work.
- `--recipe small` is for a folder of some thousand pictures: a small network for many epochs.
- `--recipe finetune`, the default with `--pretrained`, is for pretrained networks, whatever the
  data set is. None of its values has been measured.
- `--recipe released` follows the authors' released code, which differs from the text. Stage 2
  starts from the epoch that was best **on the test set**, results are read from that epoch, and
  mirror images are averaged. The command says so. Such numbers are not comparable with honest
  ones.

The letter behind a value says where it comes from:

{sources}

## Stage 1

{stage1}

## Stage 2

{stage2}

## The recipe `published`

`--recipe published` trains a method of stage 1 as its authors did, but for the network and the
augmentation. Sets in memory take the values of CIFAR, sets on disk those of ImageNet-LT. What is
not in the table is that of the recipe `paper`, and stage 2 follows by that one.

{published}

## How to read it

- `folder` is one's own pictures.
- `he` and `conv-default` are the initialisation of the first convolution of `resnet34`: He's, or
  that of `nn.Conv2d`.
- A cosine falls from lr over the epochs after the warm-up; a `step` schedule multiplies lr by a
  factor after each of its milestones, shares of the epochs.
- `from-lr` is a cosine that starts at lr and is stepped once an epoch. `to-zero` is one epoch
  further along, as in the released code: its last epoch has lr 0 and moves only the statistics of
  batch norm.
- *size* is the side of the crops of pictures on disk; 224 where nothing stands.
- *backbone* is the learning rate of the backbone over that of the classifier; 1 elsewhere.
- λ is SGD's weight decay: λ·w is added to the gradient of every parameter that trains. Momentum
  is 0.9, without Nesterov.
- t places the radius δ of MaxNorm: δ = min + t·(max − min) of the row norms of stage 1. Rows are
  projected after every `step`, or once an `epoch`.
- *frozen batch norm* is the mode of the batch norm of layers that stage 2 does not train.

## The large sets

On the large sets the paper tunes λ, λ₂ and δ and does not give them. Every value there that is
not marked <sup>p</sup> is not from the paper, and none of these has been measured here. Stage 2
of sets on disk sees one augmented view (`--views 1`), by the recipe `small` ten.

## The recipe `released`

- Its values are those for CIFAR-100-LT. The released code says nothing of sets on disk.
- It was compared with the authors' code on the same batches: 30 steps of ResNet-34 bit for bit,
  then stage 2, losses, radii and evaluation. Of 73 checks none failed.
- It runs in fp32 throughout, as the notebooks do.
- The small networks of the digits and of Fashion-MNIST are kept under it.

Under both recipes τ-normalisation divides by ‖w‖^τ, as the paper and the released Normalizer do
(the released MaxNorm class applies τ twice, unused). A group without classes has no value, not 0.

## The released loss

`cb-bce` averages over the batch *and* the classes. Near uniform predictions its gradient is about
K/(1 + p) times smaller than that of weighted cross-entropy, and λ = 0.1 belongs to that scale
only. Weight decay then shrinks the classifier so far that MaxNorm never binds on CIFAR-100-LT,
and all probabilities are nearly uniform. Accuracies hold. Probabilities, NLL and ECE mean nothing
until a temperature is fitted; the commands say so when it happens. For sets of ten classes the
defaults of the recipe `paper` are ours, with the loss `cb`.
"""


METHODS = """# Methods: what can be trained and compared

What `wbcli methods NAME` says, on one page. Every method trains under the same recipe, so that runs
differ in the method alone.

- Published figures are per cent of the test images, mean over classes. They come from other
  networks, epochs and augmentations than ours, often from the best epoch on the test set: none is
  comparable with a run of yours unless network, epochs and data are the same.
- *Cost* is against plain training of the network.
- n_k are the training images of class k, N those of all, π_k = n_k/N; z are logits, p their
  softmax, y the label, h the features, w_k the rows of the classifier.
- An option that a method does not have is refused by name.

{contents}
"""
OF_STAGE = {
    1: "Training a network: `wbcli stage1 DATASET --method NAME`",
    2: "Retraining the classifier of a run: `wbcli stage2 [RUN] --method NAME`",
    0: "Without training: `wbcli normalize [RUN] --method NAME`",
}


def methods() -> str:
    """docs/methods.md."""
    found = described()
    contents, parts = [], []
    for stage, heading in OF_STAGE.items():
        own = [method for method in found if method["stage"] == stage]
        contents.append(f"| {heading.partition(':')[0]} | what it is | source |\n|---|---|---|")
        for method in own:
            cells = f"`{method['name']}`", method["title"], method["source"]
            contents[-1] += "\n" + "| " + " | ".join(map(_whole, cells)) + " |"
        parts += [f"## {heading}\n", *map(_method, own)]
    return "\n".join([METHODS.format(contents="\n\n".join(contents)), *parts])


def _whole(text: str) -> str:
    """A cell of a table, in which a bar would end it."""
    return text.replace("|", "\\|")


def _method(method: dict[str, Any]) -> str:
    """The section of a method."""
    lines = [f"### {method['name']}\n", f"{method['title']}.\n"]
    lines += [f"- Source: {method['source']}", f"- Cost: {method['cost']}"]
    lines += [f"- {note}" for note in method["notes"]]
    if method["options"]:
        lines += ["", "| option | default | what it is | source |", "|---|---|---|---|"]
    for key, option in method["options"].items():
        default = "none" if option["default"] is None else option["default"]
        cells = [f"`{option_name(key)}`", str(default), option["help"], option["source"]]
        lines.append("| " + " | ".join(map(_whole, cells)) + " |")
    if method["published"]:
        lines += ["", "| published | imbalance factor | network | epochs | all |", "|---" * 5 + "|"]
    for figure in method["published"]:
        factor = figure["imbalance_factor"]
        cells = [figure["dataset"], "as it is" if factor is None else str(factor)]
        cells += [figure["network"], str(figure["epochs"]), f"{figure['all']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def options() -> str:
    """docs/options.md."""
    found = dict(_commands(cli, click.Context(cli, info_name="wbcli", **cli.context_settings)))
    records = {path: _options(ctx) for path, ctx in found.items()}
    everywhere = _shared(records, *records)
    trains = [line for line in _shared(records, *TRAINS) if line not in everywhere]
    parts = [OPTIONS]
    for path, ctx in found.items():
        own = [line for line in records[path] if line not in everywhere]
        if path in TRAINS:
            own = [line for line in own if line not in trains]
            own.append("- and those [of every training](#of-every-training)")
        usage = " ".join(ctx.command.collect_usage_pieces(ctx))
        parts += [f"## wbcli {path}\n", f"`wbcli {path} {usage}`\n", _help(ctx.command)]
        parts += ["\n".join(own) + "\n"] if own else []
    commands = ", ".join(f"`{path}`" for path in TRAINS)
    parts += ["## Of every training\n", f"Of {commands}.\n", "\n".join(trains) + "\n"]
    parts += ["## Of every command\n", "\n".join(everywhere) + "\n"]
    return "\n".join(parts)


def recipes() -> str:
    """docs/recipes.md."""
    sources = [f"- <sup>{letter}</sup> {source}" for letter, source in SOURCES.items()]
    tables = {stage: _table(stage) for stage in ("stage1", "stage2")}
    return RECIPES.format(sources="\n".join(sources), published=_published(), **tables)


PAGES = {"options.md": options, "recipes.md": recipes, "methods.md": methods}


def _commands(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Context]]:
    """Every command that does something, by its words on the command line."""
    if not isinstance(command, click.Group):
        yield ctx.command_path.removeprefix("wbcli "), ctx
        return
    for name in command.list_commands(ctx):
        child = command.get_command(ctx, name)
        yield from _commands(child, click.Context(child, info_name=name, parent=ctx))


def _options(ctx: click.Context) -> list[str]:
    """A line for every option, as --help has it."""
    found = [param for param in ctx.command.get_params(ctx) if isinstance(param, click.Option)]
    records = [option.get_help_record(ctx) for option in found]
    return [f"- `{names}`: {' '.join(text.split())}" for names, text in records]


def _shared(records: dict[str, list[str]], *paths: str) -> list[str]:
    """The lines that all of these commands have."""
    return [line for line in records[paths[0]] if all(line in records[path] for path in paths)]


def _help(command: click.Command) -> str:
    """A command's help; the blocks that click does not wrap (after a line of \\b) become code."""
    parts = []
    for paragraph in cleandoc(command.help).split("\n\n"):
        block = paragraph.removeprefix("\b\n")
        if block == paragraph:
            parts.append(" ".join(paragraph.split()))
        elif block.startswith("Example:"):
            lines = re.sub(r"^ +", "", block.removeprefix("Example:\n"), flags=re.MULTILINE)
            parts.append(f"```sh\n{lines.rstrip()}\n```")
        else:
            parts.append(f"```\n{block.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _table(stage: str) -> str:
    """The defaults of a stage in config.py, each with the letter of its source."""
    tables = {key[:2]: table for key, table in DEFAULTS.items() if key[2] == stage}
    settings = {key for table in tables.values() for key in table}
    columns = {head: keys for head, keys in COLUMNS.items() if settings.intersection(keys)}
    lines = [f"| recipe | data set | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for (recipe, dataset), table in tables.items():
        cells = [
            ", ".join(_cell(table[key]) for key in keys if key in table)
            for keys in columns.values()
        ]
        lines.append(f"| {recipe} | {dataset} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _published() -> str:
    """What is known of methods in config/published.py, with its source."""
    lines = ["| method | sets | settings | source |", "|---|---|---|---|"]
    for method, groups in PUBLISHED.items():
        for group, values in groups.items():
            told = ", ".join(f"{key} {default.value}" for key, default in values.items())
            sources = "; ".join(dict.fromkeys(default.source for default in values.values()))
            lines.append(f"| `{method}` | {group} | {told} | {sources} |")
    return "\n".join(lines)


def _cell(default: Default) -> str:
    words = {True: "yes", False: "no"}
    value = default.value
    text = words[value] if isinstance(value, bool) else str(value)
    return f"{text} <sup>{default.source}</sup>"


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
