"""One self-contained HTML page: numbers, figures and settings of runs, for any screen.

It loads nothing and runs nothing; everything that comes from a run is escaped. It is also
well-formed XML.
"""

import re
import time
import xml.etree.ElementTree as ET
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from wbcli.console import format_cell
from wbcli.report.canvas import SIZE, Model
from wbcli.words import counted

COLUMNS = {  # heading: where the number is in a result
    "All": ("accuracy", "all"),
    "Many": ("accuracy", "many"),
    "Medium": ("accuracy", "medium"),
    "Few": ("accuracy", "few"),
    "Images": ("accuracy", "images"),
    "Top 5": ("top5",),
    "Macro F1": ("macro_f1",),
    "NLL": ("nll",),
    "ECE": ("ece",),
    "T": ("temperature",),
    "NLL at T": ("nll_with_temperature",),
    "ECE at T": ("ece_with_temperature",),
}
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1c; --faint: #555; --line: #ccc;
  --alarm: #a40000; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8e8e8; --faint: #aaa; --line: #44474d; --alarm: #ff9d94; }
}
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 0.5rem; }
.figures { display: grid; gap: 2rem; grid-auto-flow: dense;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
figcaption, .note { color: var(--faint); font-size: 0.875rem; }
.warning { color: var(--alarm); border: 2px solid; padding: 0.5rem 1rem; font-weight: bold; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; max-height: 90vh; }
svg text { fill: currentColor; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
table.numbers td, table.numbers th + th { text-align: right; white-space: nowrap; }
table.settings td { min-width: 7rem; max-width: 20rem; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{subject}</p>
{warnings}<h2>Numbers</h2>
<div class="scroll" tabindex="0">{numbers}</div>
<p class="note">{note}</p>
<h2>Figures</h2>
<div class="figures">
{figures}
</div>
<h2>Settings</h2>
<div class="scroll" tabindex="0">{settings}</div>
</body>
</html>
"""


WORDS = {"test": "test", "val": "validation"}  # before "image"


class Picture(NamedTuple):
    """A figure of the page: the name of its files, a heading, what to see in it, and its SVG."""

    name: str
    title: str
    caption: str
    svg: str


def render(models: list[Model], records: list[dict[str, Any]], pictures: list[Picture]) -> str:
    """The page as text.

    Args:
        models: what `evaluate_run` returned, one for each run, all of one data set.
        records: the runs' config.json, in the same order.
    """
    first = models[0]
    measured = counted(first["num_images"], f"{WORDS[first['split']]} image")
    if "measured_on" in first:
        measured += f" of {Path(first['measured_on']).name}"
    factors = sorted({f"{m['imbalance_factor']:g}" for m in models if m["imbalance_factor"]})
    return PAGE.format(
        title=escape(f"wbcli report: {', '.join(model['run'] for model in models)}"),
        style=STYLE,
        subject=escape(
            f"{first['dataset']}, {first['num_classes']} classes, "
            + (f"imbalance factor {', '.join(factors)}; " if factors else "")
            + f"measured on {measured}."
        ),
        warnings="".join(map(_warning, models, records)),
        numbers=_numbers(models),
        note=escape(
            f"Per cent, but NLL in nats. Accuracies are means over classes, Images is over images; "
            f"Many: over {first['limits']['many']} training images, Few: under "
            f"{first['limits']['few']}. "
            "ECE has 15 bins; T is the temperature fitted on validation images."
        ),
        figures="\n".join(map(_figure, pictures)),
        settings=_settings(models, records),
    )


def _warning(model: Model, record: dict[str, Any]) -> str:
    """What makes a run's numbers better than it is."""
    texts = []
    if "test" in (record.get("selected_on"), model.get("selected_on")):
        texts.append("its settings were chosen on the test set")
    if record.get("checkpoint") == "best-on-test" and model["checkpoint"] == "best":
        texts.append("its epoch was chosen on the test set")
    return "".join(
        f'<p class="warning" role="note">{escape(model["run"])}: {text}, so its test numbers '
        "are too good.</p>\n"
        for text in texts
    )


def _numbers(models: list[Model]) -> str:
    rows = []
    for model in models:
        mirrored = ", mirror images averaged" if model["tta"] else ""
        row = [f"{model['run']} ({model['checkpoint']} epoch{mirrored})"]
        for keys in COLUMNS.values():
            value: Any = model
            for key in keys:
                value = value[key]
            row.append(format_cell(value))
        rows.append(row)
    return _table("numbers", ["Run", *COLUMNS], rows)


def _settings(models: list[Model], records: list[dict[str, Any]]) -> str:
    hidden = ("run", "data_dir")  # named in the heading; nobody's but the user's
    keys = dict.fromkeys(key for record in records for key in record if key not in hidden)
    rows = [[key, *[_setting(key, record.get(key)) for record in records]] for key in keys]
    return _table("settings", ["Setting", *[model["run"] for model in models]], rows)


def _setting(key: str, value: Any) -> str:
    if key == "created" and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    words = {None: "–", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _table(kind: str, heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in rest)
        + "</tr>"
        for first, *rest in rows
    ]
    body = "\n".join(lines)
    return f'<table class="{kind}">\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'


def _figure(picture: Picture) -> str:
    svg = ET.fromstring(picture.svg)
    width = float(svg.attrib["viewBox"].split()[2]) / 72  # inch
    wide = width > 1.2 * SIZE[0]
    _make_inline(svg, picture.name)
    svg.attrib |= {"role": "img", "aria-label": f"{picture.title}. {picture.caption}"}
    if wide:  # a phone scrolls it in its box rather than make its text unreadable
        svg.attrib["style"] = f"min-width: {65 * width:.0f}px; max-width: {110 * width:.0f}px"
    kind = "wide" if wide else "narrow"
    return (
        f'<figure id="{picture.name}" class="{kind}">\n'
        f"<h3>{escape(picture.title)}</h3>\n"
        f'<div class="scroll">{ET.tostring(svg, encoding="unicode")}</div>\n'
        f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
    )


def _make_inline(svg: ET.Element, name: str) -> None:
    """Fit matplotlib's SVG into a page.

    Ids begin with `name`, black is the colour of the page's text and white its background;
    namespaces, which look like addresses to load from, go, and so does its style sheet.
    """
    for parent in list(svg.iter()):
        for child in parent.findall("{*}style"):
            parent.remove(child)
    for element in svg.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            key.rpartition("}")[2]: _inline_value(key.rpartition("}")[2], value, name)
            for key, value in element.attrib.items()
        }
    for image in svg.iter("image"):  # equal images share an id, to which nothing refers
        image.attrib.pop("id", None)
    for key in ("width", "height", "version"):
        svg.attrib.pop(key, None)


def _inline_value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return re.sub("^#", f"#{name}-", value)
    value = value.replace("url(#", f"url(#{name}-")
    return value.replace("fill: #ffffff", "fill: none").replace("#000000", "currentColor")
