"""The one place that writes to the terminal: results on stdout, everything else on stderr.

A terminal gets a live progress bar; a pipe gets plain lines, never wrapped, shortened
or coloured.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from wbcli.words import printable

PIPE_WIDTH = 10_000
verbosity = 0  # -1 after -q, 1 after -v


def say(text: str) -> None:
    """A message beside the results; silent under -q."""
    if verbosity >= 0:
        click.echo(printable(text), err=True)


def warn(text: str) -> None:
    click.echo(f"Warning: {printable(text)}", err=True)


def print_json(content: Any) -> None:
    """JSON on stdout; what has no number (NaN, infinity) is null."""
    click.echo(json.dumps(_finite(content), indent=2, ensure_ascii=False))


def print_table(columns: list[str], rows: list[list[Any]], caption: str = "") -> None:
    """A table on stdout: text to the left, numbers to the right, None as an en dash."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*[Text(format_cell(cell)) for cell in row])
    console = _console(sys.stdout, PIPE_WIDTH)  # better wrapped by the terminal than cut
    with console.capture() as capture:
        console.print(table)
    text = "\n".join(line.rstrip() for line in capture.get().splitlines())
    click.echo(f"{text}\n{caption}" if caption else text, color=True)


def format_cell(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) < 1000 else f"{cell:.0f}"
    return printable(str(cell))


def format_settings(settings: dict[str, Any]) -> str:
    """wd 0.0005, lr 0.01, loss cb"""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in settings.items()
    )


class Progress:
    """Progress of a training: a live bar on a terminal, a line for each epoch on a pipe.

    With `lines` off, for one training among many, a pipe gets nothing.
    """

    def __init__(self, epochs: int, images_per_epoch: int, *, lines: bool = True):
        self.epochs, self.images_per_epoch, self.lines = epochs, images_per_epoch, lines
        self.bar = self.task = None
        if verbosity >= 0 and sys.stderr.isatty():
            self.bar, self.task = _bar(epochs * images_per_epoch)

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error) -> None:
        if self.bar:
            self.bar.stop()

    def on_batch(self, images: int) -> None:
        if self.bar:
            self.bar.advance(self.task, images)

    def on_save(self, epoch: int, step: int) -> None:
        """A run that is continued starts where its checkpoint is."""
        if self.bar and not step:
            self.bar.update(self.task, completed=epoch * self.images_per_epoch)

    def on_epoch(self, row: dict[str, Any]) -> None:
        if self.bar:
            text = f"epoch {row['epoch']}/{self.epochs}  loss {row['train_loss']:.4f}  "
            text += "  ".join(_measured(row, format_cell((row["accuracy"] or {}).get("all"))))
            self.bar.update(self.task, description=text)
        elif self.lines:
            say(f"{_describe(row, self.epochs)}  {row['images_per_second']:.0f} images/s")


@contextmanager
def counting(total: int) -> Iterator[Callable[[int], None]]:
    """A live bar over files that are read, on a terminal only; yields what moves it on."""
    if verbosity < 0 or not sys.stderr.isatty():
        yield lambda count: None
        return
    bar, task = _bar(total, "reading files", "files/s")
    with bar:
        yield lambda count: bar.advance(task, count)


def _describe(row: dict[str, Any], epochs: int) -> str:
    found = row["accuracy"] or {}
    accuracy = "  ".join(f"{k} {format_cell(v)}" for k, v in found.items()) or "–"
    clipped = row["clipped_fraction"]
    return (
        f"epoch {row['epoch']}/{epochs}  lr {row['lr']:.5f}  loss {row['train_loss']:.4f}  "
        f"train {row['train_accuracy']:.1f}  {'  '.join(_measured(row, accuracy))}"
        + ("" if clipped is None else f"  clipped {100 * clipped:.0f}%")
    )


def _measured(row: dict[str, Any], accuracy: str) -> list[str]:
    """Validation, by which the best epoch is chosen, where there are such images; and test, but
    not where they are all that there is to measure.
    """
    found = row.get("val_accuracy")
    parts = [f"val {format_cell(found['all'])}"] if found else []
    return parts + [f"test {accuracy}"] * bool(row["accuracy"] or not found)


def _bar(total: int, title: str = "first epoch", unit: str = "images/s"):
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class SpeedColumn(ProgressColumn):
        def render(self, task):
            return Text(f"{task.speed or 0:.0f} {unit}")

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        SpeedColumn(),
        TimeRemainingColumn(),
        console=_console(sys.stderr),
    )
    return bar, bar.add_task(title, total=total)


def _console(stream, width: int | None = None):
    from rich.console import Console

    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        width=width if terminal else PIPE_WIDTH,
        color_system="auto" if terminal else None,
        highlight=False,
    )


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
