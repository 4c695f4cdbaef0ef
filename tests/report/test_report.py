"""The report of real runs: complete, true to result.json, well-formed, loading nothing."""

import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import torch

from report.test_figures import large, model
from wbcli import cli
from wbcli.evaluate import measured as evaluate_measured
from wbcli.files import storage
from wbcli.report import figures, page, report
from wbcli.runs.run import Run

SHORT = ("--epochs", "2", "--batch-size", "64")
ALONE = {
    "per_class_accuracy",
    "class_frequencies",
    "row_norms",
    "marginal_likelihood",
    "reliability",
    "confusion",
    "learning_curves",
    "norm_heat_maps",
    "filter_norms",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of two epochs: `naive`, `wd` and, from it, `second`, with a report; `l2` of naive."""
    folder = tmp_path_factory.mktemp("trained")
    for command in (
        ("stage1", "digitslt", "--wd", "0", "--name", "naive", *SHORT),
        ("stage1", "digitslt", "--wd", "5e-3", "--name", "wd", *SHORT),
        ("stage2", "wd", "--maxnorm", "0.1", "--name", "second", *SHORT),
        ("normalize", "naive", "--name", "l2"),
        ("report", "second"),
    ):
        with pytest.raises(SystemExit) as ending:
            cli.main([*command, "--runs-dir", str(folder), "-q"])
        assert ending.value.code == 0
    return folder


@pytest.fixture
def runs_dir(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def parse(path):
    """The page's elements; parsing fails where it is not well-formed."""
    return ET.fromstring(Path(path).read_text(encoding="utf-8"))


def figure_names(tree):
    return [figure.attrib["id"] for figure in tree.iter("figure")]


def assert_self_contained(text):
    tree = ET.fromstring(text)
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not {element.tag for element in tree.iter()} & {"script", "link", "iframe", "object"}
    for element in tree.iter():
        for key in ("src", "href"):
            target = element.attrib.get(key, "#")
            assert target.startswith("data:") or target == "#" or target[1:] in ids
    for target in re.findall(r"url\(\s*['\"]?([^)]*)", text):
        assert target.startswith("#") and target[1:] in ids


def test_the_newest_run_alone(wbcli, runs_dir):
    shutil.rmtree(runs_dir / "naive")  # so that one λ is left, and l2 has no parent
    shutil.rmtree(runs_dir / "l2")
    result = wbcli("report")
    assert result.code == 0
    assert "run second, the newest finished one" in result.err
    page_path = Path("runs/second/report.html")
    assert f"page: {page_path}" in result.out
    tree = parse(page_path)
    assert set(figure_names(tree)) == ALONE
    assert_self_contained(page_path.read_text(encoding="utf-8"))
    for name in ALONE:
        assert (runs_dir / "second" / "figures" / f"{name}.png").stat().st_size > 0
        assert (runs_dir / "second" / "figures" / f"{name}.svg").stat().st_size > 0


def test_several_runs_on_one_page(wbcli, runs_dir):
    chosen = ("naive", "second", "l2")
    printed = json.loads(wbcli("report", *chosen, "--output", "compared", "--json").out)
    assert (printed["runs"], printed["page"]) == (list(chosen), "compared/report.html")
    assert all(Path(path).is_file() for path in printed["figures"])
    tree = parse(printed["page"])
    expected = ALONE - {"confusion"} | {f"confusion-{n}" for n in (1, 2, 3)}
    assert set(figure_names(tree)) == expected | {"accuracy_against_wd"}
    assert_self_contained(Path(printed["page"]).read_text(encoding="utf-8"))
    headings = [cell.text for cell in tree.iter("th")]
    assert [f"{run} (last epoch)" in headings for run in chosen] == [True] * 3
    assert not (runs_dir / "naive" / "report.html").exists()


def test_every_figure_says_what_it_shows(trained):
    tree = parse(trained / "second" / "report.html")
    for figure in tree.iter("figure"):
        svg = figure.find(".//svg")
        assert svg.attrib["role"] == "img"
        title, caption = figure.find("h3").text, figure.find("figcaption").text
        assert svg.attrib["aria-label"] == f"{title}. {caption}"
        assert len(caption) > 40
    viewport = [meta.attrib["content"] for meta in tree.iter("meta") if "name" in meta.attrib]
    assert viewport == ["width=device-width, initial-scale=1"]


def test_the_numbers_are_those_of_eval(wbcli, trained):
    result = json.loads((trained / "second" / "result.json").read_text())["test"]
    assert json.loads(wbcli("eval", "second", "--json", "--runs-dir", str(trained)).out) == result
    assert "confusion" not in result
    cells = [
        cell.text for cell in parse(trained / "second/report.html").find(".//table").iter("td")
    ]
    values = [result["accuracy"][key] for key in ("all", "many", "medium", "few", "images")]
    values += [result[key] for key in ("top5", "macro_f1", "nll", "ece")]
    assert cells == [f"{value:.2f}" for value in values] + ["–"] * 3


def test_settings_of_the_run_are_on_the_page(trained):
    table = parse(trained / "second" / "report.html").findall(".//table")[1]
    shown = {row.find("th").text: row.find("td").text for row in table.find("tbody")}
    assert (shown["parent"], shown["maxnorm"], shown["unit_norm"]) == ("wd", "0.1", "no")
    assert "torch" in shown["versions"]


def test_the_figures_show_result_json(wbcli, runs_dir, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: drawn.update({name: figure}))
    monkeypatch.setattr(report, "_write", lambda chosen, models, drawings, *rest: drawings)
    run = Run(runs_dir / "second")
    drawings = report.write([run], torch.device("cpu"), Path("here"), precision="fp32")
    axes = {drawing.name: drawing.figure.axes[0] for drawing in drawings}
    result = json.loads((run.path / "result.json").read_text())["test"]
    for name, key in (("per_class_accuracy", "accuracy"), ("row_norms", "row_norm")):
        expected = [row[key] for row in result["per_class"]]  # the digits are sorted by count
        assert axes[name].lines[0].get_ydata().tolist() == expected
    diagonal = np.diag(axes["confusion"].images[0].get_array())
    np.testing.assert_allclose(diagonal, [row["accuracy"] for row in result["per_class"]])
    norms = [row["row_norms"] for row in run.metrics()]
    assert axes["norm_heat_maps"].images[0].get_array().T.tolist() == norms
    classifier = axes["filter_norms"].lines[-2].get_ydata()
    np.testing.assert_allclose(classifier, sorted(norms[-1], reverse=True))


def test_a_normalised_run_shows_the_epochs_of_its_parent(wbcli, runs_dir):
    tree = parse(json.loads(wbcli("report", "l2", "--json").out)["page"])
    shown = {figure.attrib["id"]: "".join(figure.itertext()) for figure in tree.iter("figure")}
    assert "naive" in shown["learning_curves"] and "naive" in shown["norm_heat_maps"]
    shutil.rmtree(runs_dir / "naive")
    tree = parse(json.loads(wbcli("report", "l2", "--json").out)["page"])
    left = {"learning_curves", "norm_heat_maps"}
    assert set(figure_names(tree)) == ALONE - left


def test_decay_curves_take_the_runs_that_differ_in_wd_alone(runs_dir):
    naive, wd = Run(runs_dir / "naive"), Run(runs_dir / "wd")
    accuracies = [run.metrics()[-1]["accuracy"]["all"] for run in (naive, wd)]
    expected = [("as wd", [(0.0, accuracies[0]), (5e-3, accuracies[1])])]
    assert report.decay_curves([wd, naive]) == (expected, "test")
    config = naive.record()
    storage.write_json(naive.path / "config.json", config | {"seed": 1})
    assert report.decay_curves([wd, naive]) == ([], "val")


def test_decay_curves_take_runs_that_were_measured_more_or_less_often(runs_dir):
    naive = Run(runs_dir / "naive")
    curves, _ = report.decay_curves([naive])
    storage.write_json(naive.path / "config.json", naive.record() | {"eval_every": 7})
    again, _ = report.decay_curves([naive])
    assert len(curves) == 1 and again[0][1] == curves[0][1]


def test_decay_curves_prefer_validation_images(runs_dir):
    for name, accuracy in (("naive", 20.0), ("wd", 30.0)):
        run = Run(runs_dir / name)
        rows = run.metrics()
        val = {"val_accuracy": rows[0]["accuracy"] | {"all": accuracy}}
        run.write_metrics([row | val for row in rows])
    curves, split = report.decay_curves([Run(runs_dir / "wd")])
    assert (curves[0][1], split) == ([(0.0, 20.0), (5e-3, 30.0)], "val")


def result_of(measured):
    """A result as `render` takes it, around what test_figures makes."""
    numbers = dict.fromkeys(("top5", "macro_f1", "nll", "nll_with_temperature"), 1.0)
    return (
        measured
        | numbers
        | {
            "dataset": "<img src=x>",
            "imbalance_factor": 100,
            "num_classes": len(measured["per_class"]),
            "num_images": 10,
            "checkpoint": "last",
            "tta": False,
            "accuracy": dict.fromkeys(("all", "many", "medium", "few", "images"), 50.0),
            "temperature": None,
            "ece_with_temperature": None,
        }
    )


def picture(figure, tmp_path):
    figures.save(figure, tmp_path, "drawn")
    return page.Picture(
        "drawn", "Title & <b>", 'What "to" see', (tmp_path / "drawn.svg").read_text()
    )


def test_hostile_names_are_text(tmp_path):
    hostile = model("</title><script>alert(1)</script>")
    for row in hostile["per_class"]:
        row["name"] = '"><script>'
    record = {"stage": "<script>", "versions": {"a": "<b>"}, "seed": 0}
    shown = picture(figures.row_norms([hostile]), tmp_path)
    text = page.render([result_of(hostile)], [record], [shown])
    assert_self_contained(text)
    tree = ET.fromstring(text)
    assert tree.find("head/title").text == "wbcli report: </title><script>alert(1)</script>"
    assert '"><script>' in "".join(tree.find(".//svg").itertext())


@pytest.mark.parametrize("place", ["record", "result"])
def test_a_choice_by_the_test_set_is_a_visible_warning(tmp_path, place):
    shown = picture(figures.row_norms([model()]), tmp_path)
    chosen = {"selected_on": "test"}
    honest = page.render([result_of(model())], [{"selected_on": "val"}], [shown])
    assert 'class="warning"' not in honest
    result = result_of(model()) | (chosen if place == "result" else {})
    text = page.render([result], [chosen if place == "record" else {}], [shown])
    warning = next(p for p in ET.fromstring(text).iter("p") if p.get("class") == "warning")
    assert warning.text == (
        "naive: its settings were chosen on the test set, so its test numbers are too good."
    )


def test_the_page_of_8142_classes_is_small(tmp_path):
    models = [large("one"), large("two")]
    counts = [row["train_images"] for row in models[0]["per_class"]]
    norms = np.random.default_rng(0).uniform(0, 1, (90, 8142)).tolist()
    layers = [(f"layer {n}", np.linspace(0, 1, 512).tolist()) for n in range(54)]
    shown = [
        picture(figure, tmp_path)._replace(name=f"figure-{number}")
        for number, figure in enumerate(
            [
                figures.per_class_accuracy(models),
                figures.class_frequencies(models),
                figures.row_norms(models),
                figures.marginal_likelihood(models),
                figures.norm_heat_maps([("one", norms), ("two", norms)], counts),
                figures.filter_norms([("one", layers), ("two", layers)]),
                figures.confusion(np.eye(50), [str(n) for n in range(50)]),
            ]
        )
    ]
    text = page.render([result_of(m) for m in models], [{}, {}], shown)
    assert len(text.encode()) < 5_000_000
    assert_self_contained(text)


def test_a_missing_extra_is_one_line(wbcli, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = wbcli("report")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: wbcli report needs matplotlib: pip install 'wbcli[study]'\n"


def test_what_cannot_be_reported_is_wrong_usage(wbcli, runs_dir):
    nobody = wbcli("report", "nobody")
    assert (nobody.code, nobody.out) == (2, "")
    assert "Error: no run 'nobody' in runs (newest there: " in nobody.err
    Path("taken").write_text("")
    taken = wbcli("report", "naive", "--output", "taken")
    assert taken.code == 2
    assert "--output taken: expected a folder, this is a file" in taken.err
    record = Run(runs_dir / "wd").record()
    storage.write_json(runs_dir / "wd" / "config.json", record | {"dataset": "cifar10lt"})
    mixed = wbcli("report", "naive", "wd")
    assert mixed.code == 2
    assert (
        "runs of different data sets cannot share a report: naive is of digitslt, wd of cifar10lt"
        in mixed.err
    )


def test_the_confusion_matrix_of_many_classes_is_of_groups(monkeypatch):
    monkeypatch.setattr(evaluate_measured, "MAX_CONFUSION", 4)
    monkeypatch.setattr(evaluate_measured, "CONFUSION_GROUPS", 2)
    index, names = evaluate_measured.confusion_groups([3, 50, 3, 20, 90], list("abcde"))
    assert index.tolist() == [1, 0, 1, 0, 0]
    assert names == ["90–20", "3"]
