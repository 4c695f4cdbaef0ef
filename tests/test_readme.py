"""README.md and docs/ say what the code does: commands, options, recipes, tests, links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wbcli import cli
from wbcli.cli import pages
from wbcli.config import recipes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {page.name: page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
LINKED = [*PAGES, "CHANGELOG.md"]


def sh_blocks(text: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def command_lines() -> Iterator[tuple[str, str]]:
    """(page, command) of every `wbcli …` in a block of sh, in the README also within a line."""
    within = [("README.md", line) for line in re.findall(r"`(wbcli [^`]+)`", README)]
    blocks = [(name, line) for name, text in PAGES.items() for line in sh_blocks(text)]
    for name, block in [*within, *blocks]:
        for command in re.split(r"&&|\n", block):
            if command.strip().startswith("wbcli "):
                yield name, command.strip()


def parse(line: str) -> None:
    """Raise click.UsageError where a command, an option or an argument is not what wbcli takes.

    Nothing runs, and files need not be there.
    """
    words = shlex.split(line, comments=True)[1:]
    command, ctx = cli.cli, click.Context(cli.cli, info_name="wbcli")
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.get_command(ctx, name)
        if command is None:
            raise click.UsageError(f"no such command: {name}")
        ctx = click.Context(command, info_name=name, parent=ctx)
    values, rest, _ = command.make_parser(ctx).parse_args(words)
    if rest:
        raise click.UsageError(f"more than it takes: {rest}")
    for param in command.params:
        value = values.get(param.name)
        given = isinstance(value, str | tuple | list) and bool(value)
        if param.required and not given:
            raise click.UsageError(f"{param.name} is missing")
        if given and not isinstance(param.type, click.Path):
            param.type_cast_value(ctx, value)


def anchors(text: str) -> set[str]:
    """What a heading is called in a link, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 180


def test_the_readme_leads_to_every_page():
    for name in PAGES:
        assert name == "README.md" or f"](docs/{name})" in README


@pytest.mark.parametrize("name", pages.PAGES)
def test_generated_pages_are_what_the_code_gives(name):
    """`python -m wbcli.cli.pages` writes them."""
    assert PAGES[name] == pages.PAGES[name]()


def test_every_default_is_in_the_tables_of_recipes_with_its_source():
    first, second = PAGES["recipes.md"].split("\n## Stage 2\n")
    for (recipe, dataset, stage), defaults in recipes.DEFAULTS.items():
        table = first if stage == "stage1" else second
        (row,) = re.findall(rf"^\| {recipe} \| {dataset} \|.*$", table, re.MULTILINE)
        shared = {"momentum", "views"}  # the text says these once
        for value, source in (defaults[key] for key in defaults.keys() - shared):
            text = ("no", "yes")[value] if isinstance(value, bool) else value
            assert f" {text} <sup>{source}</sup>" in row
    for letter, source in recipes.SOURCES.items():
        assert f"<sup>{letter}</sup> {source}" in PAGES["recipes.md"]


def test_ci_runs_the_readmes_own_commands():
    script = (ROOT / ".ci" / "run").read_text()
    blocks = sh_blocks(README)
    assert len(blocks) >= 2
    for block in blocks[:2]:
        assert block.strip() in script


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert f"wbcli {command}" in README


def test_every_command_line_can_be_typed():
    lines = list(command_lines())
    assert len(lines) > 50
    for name, line in lines:
        try:
            parse(line)
        except click.UsageError as error:
            pytest.fail(f"{name}: {line}: {error.format_message()}")


@pytest.mark.parametrize(
    "line",
    [
        "wbcli stage3",
        "wbcli stage1",
        "wbcli stage1 digitslt --wdd 1",
        "wbcli stage1 digitslt --wd much",
        "wbcli stage1 digitslt --loss cc",
        "wbcli eval a b --splits val",
        "wbcli export a b",
        "wbcli tune stage2 --range momentum 0 1",
    ],
)
def test_a_command_line_with_a_mistake_is_seen(line):
    with pytest.raises(click.UsageError):
        parse(line)


def test_every_option_that_a_text_names_exists():
    known = set(re.findall(r"--[a-z][\w-]*", pages.options()))
    # of ruff, pip, tests/kills.py and the code of LDAM
    others = {"--check", "--no-build-isolation", "--kills", "--train_rule"}
    for name, text in PAGES.items():
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
        assert named <= known | others, name


@pytest.mark.parametrize("name", LINKED)
def test_every_link_leads_somewhere(name):
    page = ROOT / name if (ROOT / name).is_file() else ROOT / "docs" / name
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.is_file(), f"{name}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{name}: {link}"


def test_every_wing_is_described():
    for package in (ROOT / "wbcli").glob("*/__init__.py"):
        assert f"wbcli/{package.parent.name}/ " in PAGES["architecture.md"]


def test_every_promise_names_tests_that_are_there():
    promises = [line for line in PAGES["promises.md"].splitlines() if line.startswith("| ")][1:]
    assert len(promises) > 10
    for line in promises:
        kept_by = re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`", line.split("|")[2])
        assert kept_by, f"nothing keeps {line}"
        for file, name in kept_by:
            (path,) = (ROOT / "tests").rglob(file)
            assert f"def {name or 'test_'}" in path.read_text(), f"{file} has no {name}"
