"""The README says what the code does: its recipe table, its commands, its file tree."""

import re
from pathlib import Path

import pytest

from wbcli import cli, config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COLUMNS = {  # heading: settings that share the cell
    "network": ["arch", "init"],
    "epochs": ["epochs"],
    "batch": ["batch_size"],
    "lr": ["lr", "schedule"],
    "λ": ["wd"],
    "loss": ["loss"],
    "t": ["maxnorm", "project"],
    "layers": ["layers"],
    "frozen batch norm": ["frozen_batch_norm"],
    "checkpoint": ["checkpoint"],
    "mirror": ["tta"],
}


def recipe_table() -> list[str]:
    """The README's table, drawn from the defaults in config.py."""
    lines = [
        f"| recipe | data set | stage | {' | '.join(COLUMNS)} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for (recipe, dataset, stage), defaults in config.DEFAULTS.items():
        cells = [
            ", ".join(_cell(defaults[key]) for key in keys if key in defaults) or "–"
            for keys in COLUMNS.values()
        ]
        lines.append(f"| {recipe} | {dataset} | {stage} | {' | '.join(cells)} |")
    return lines


def _cell(default: config.Default) -> str:
    words = {True: "yes", False: "no"}
    value = default.value
    text = words[value] if isinstance(value, bool) else str(value)
    return f"{text} <sup>{default.source}</sup>"


def test_the_recipe_table_is_the_one_in_the_code():
    for line in recipe_table():
        assert line in README
    for letter, source in config.SOURCES.items():
        assert f"<sup>{letter}</sup> {source}" in README


def test_ci_runs_the_readmes_own_commands():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    script = (ROOT / ".ci" / "run").read_text()
    for block in blocks[:2]:
        assert block.strip() in script


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert f"wbcli {command}" in README


def test_the_file_tree_names_every_room():
    rooms = [*(ROOT / "wbcli").glob("*.py"), *(ROOT / "wbcli").glob("*/*.py")]
    for path in rooms:
        if not path.name.startswith("__"):
            assert path.name in README, f"{path.name} is not in the file tree"


def test_every_promise_names_tests_that_are_there():
    section = README.split("## What is promised")[1].split("\n## ")[0]
    promises = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(promises) > 10
    for line in promises:
        kept_by = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", line.split("|")[2])
        assert kept_by, f"nothing keeps {line}"
        for file, name in kept_by:
            text = (ROOT / "tests" / file).read_text()
            assert f"def {name or 'test_'}" in text, f"{file} has no {name}"
