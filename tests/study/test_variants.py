"""Stage 1 under one constraint after another: what the figures are given, and the animation."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import torch
from PIL import Image

from training.test_lab import Journal, make_lab
from wbcli.config.recipes import DEFAULTS
from wbcli.report import figures
from wbcli.runs.run import Run
from wbcli.study import variants
from wbcli.training import session

VARIANTS = ["naive", "L2-norm", "WD", "MaxNorm"]
WITH_BOTH = [*VARIANTS, "WD + MaxNorm"]
COUNTS = [104, 67, 43, 28, 18, 11, 7, 4, 3, 2]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder whose parts the tests share."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def drawn(monkeypatch):
    """What the figures were asked to show, and what was saved where."""
    asked = SimpleNamespace(args=[], saved=[])

    def take(*args):
        asked.args.append(args)

    for name in ("accuracy_against_wd", "norm_heat_maps", "weights_2d", "animate_weights_2d"):
        monkeypatch.setattr(figures, name, take)
    monkeypatch.setattr(figures, "save", lambda figure, *place: asked.saved.append(place))
    return asked


def parts(folder) -> list[Run]:
    return [Run(path.parent) for path in folder.glob("*/config.json")]


def test_the_sweep_draws_its_rows(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(variants, "SWEEP", (0.0, 1e-3, 0.25))
    here = make_lab()
    rows = variants.sweep(here, [0, 1], tmp_path)["rows"]
    assert [row["name"] for row in rows] == ["wd 0", "wd 0.001", "wd 0.25"]
    assert [row["settings"] for row in rows] == [{"wd": w, "radius": None} for w in (0, 1e-3, 0.25)]
    curve = [(row["settings"]["wd"], row["ours"]["all"]["mean"]) for row in rows]
    assert drawn.args == [([("digitslt, test images", curve)],)]
    assert drawn.saved == [(tmp_path, "wd_sweep")]
    for row in rows:
        same = [run for run in parts(here.studies) if run.config().wd == row["settings"]["wd"]]
        accuracies = [run.metrics()[-1]["accuracy"]["all"] for run in same]
        assert len(same) == 2
        assert row["ours"]["all"]["mean"] == pytest.approx(sum(accuracies) / 2)
        assert (row["layers"], row["paper"], row["clipped"]) == (0, None, None)


def test_the_sweep_has_no_decay_and_the_recipes_lambda():
    recipes = {
        defaults["wd"].value
        for (recipe, _, stage), defaults in DEFAULTS.items()
        if (recipe, stage) == ("paper", "stage1")
    }
    assert {0.0} | recipes <= set(variants.SWEEP)


def test_the_heat_maps_show_the_row_norms_of_the_first_seed(studies, drawn, tmp_path):
    result = variants.norms(make_lab(studies), [5, 4], tmp_path, COUNTS)
    (panels, counts), *others = drawn.args
    assert not others
    assert [name for name, _ in panels] == [row["name"] for row in result["rows"]] == WITH_BOTH
    assert counts == COUNTS
    assert drawn.saved == [(tmp_path, "norms")]
    for row, (_, norms) in zip(result["rows"], panels, strict=True):
        by_seed = {}
        for run in parts(studies):
            same = run.config().wd == row["settings"]["wd"]
            if same and run.config().constraint() == constraint_of(row["name"]):
                by_seed[run.config().seed] = run.metrics()
        assert norms == [epoch["row_norms"] for epoch in by_seed[5]]
        accuracies = [by_seed[seed][-1]["accuracy"]["all"] for seed in (5, 4)]
        assert row["ours"]["all"]["mean"] == pytest.approx(sum(accuracies) / 2)
    torch.testing.assert_close(torch.tensor(panels[1][1]), torch.ones(2, 10))
    assert panels[0][1] != panels[2][1]


def constraint_of(name: str) -> str | None:
    return {"L2-norm": "unit_norm", "MaxNorm": "max_norm", "WD + MaxNorm": "max_norm"}.get(name)


def test_the_radius_lies_between_the_rows_of_the_free_network_of_its_seed(studies, drawn):
    """δ = min + 0.1·(max − min); each seed has its own, with weight decay and without."""
    rows = variants.norms(make_lab(studies), [5, 4], studies / "figures", COUNTS)["rows"]
    found = {5: {}, 4: {}}
    for run in parts(studies):
        if run.config().seed in found:
            found[run.config().seed][run.config().constraint(), run.config().wd] = run
    for by_settings in found.values():
        for wd in (0.0, 2e-3):  # naive, and the recipe's λ
            norms = by_settings[None, wd].metrics()[-1]["row_norms"]
            expected = min(norms) + 0.1 * (max(norms) - min(norms))
            bound = by_settings["max_norm", wd]
            assert bound.config().radius == pytest.approx(expected, rel=1e-6)
            assert max(bound.metrics()[-1]["row_norms"]) <= expected * (1 + 1e-5)
    assert len(found[5]) == len(found[4]) == 5
    told = {row["name"]: row["settings"]["radius"] for row in rows}
    bound = [found[seed]["max_norm", 0.0].config().radius for seed in (5, 4)]
    assert (told["naive"], told["MaxNorm"]) == (None, bound)


def test_norms_share_their_runs_with_the_sweep(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(variants, "SWEEP", (0.0, 2e-3))
    variants.sweep(make_lab(epochs=1), [0], tmp_path)
    journal = Journal()
    variants.norms(make_lab(listen=journal, epochs=1), [0], tmp_path, COUNTS)
    assert journal.labels == [
        "seed 0: L2-norm",
        "seed 0: MaxNorm",
        "seed 0: WD + MaxNorm",
    ]


def test_constraints_project_as_they_are_told(drawn, tmp_path):
    variants.norms(make_lab(project="epoch", epochs=1), [0], tmp_path, COUNTS)
    found = {run.config().constraint(): run.config().project for run in parts(make_lab().studies)}
    assert (found["max_norm"], found["unit_norm"]) == ("epoch", "epoch")


def test_the_plane_shows_the_weights_of_every_epoch(studies, drawn, tmp_path):
    variants.weights_2d(make_lab(studies, epochs=5), [2], tmp_path, COUNTS)
    (moments, counts), (path, film, same_counts) = drawn.args
    assert counts == same_counts == COUNTS
    assert (path, drawn.saved) == (tmp_path / "weights2d.gif", [(tmp_path, "weights2d")])
    assert [name for name, _ in moments] == [name for name, _ in film] == VARIANTS
    names = ["start", *[f"epoch {n}" for n in range(1, 6)]]
    for (variant, shown), (_, frames) in zip(moments, film, strict=True):
        assert [moment for moment, _ in frames] == names
        assert [moment for moment, _ in shown] == [names[i] for i in (0, 1, 2, 5)]
        for moment, weights in shown:
            np.testing.assert_array_equal(weights, dict(frames)[moment])
        last = next(
            run
            for run in parts(studies)
            if (run.config().bottleneck, run.config().seed) == (2, 2)
            and (run.config().wd > 0) == (variant == "WD")
            and run.config().constraint() == constraint_of(variant)
        )
        final = last.load_weights()["classifier.weight"].numpy()
        np.testing.assert_array_equal(np.float32(frames[-1][1]), final)
        for (_, weights), row in zip(frames[1:], last.metrics(), strict=True):
            norms = np.linalg.norm(weights, axis=1)
            np.testing.assert_allclose(norms, row["row_norms"], rtol=1e-5)


def test_the_first_frame_is_what_training_starts_from(studies, monkeypatch, drawn, tmp_path):
    """Seen by the optimizer of a run of the same seed, before its first step."""
    starts = []
    make = session.make_optimizer

    def seen(groups, *rest):
        (weight,) = [p for group in groups for p in group.parameters if p.shape == (10, 2)]
        starts.append(weight.detach().clone().numpy())
        return make(groups, *rest)

    monkeypatch.setattr(session, "make_optimizer", seen)
    here = make_lab(studies, epochs=1)
    variants.weights_2d(here, [7], tmp_path, COUNTS)
    assert len(starts) == 4
    for (_, frames), start in zip(drawn.args[1][1], starts, strict=True):
        np.testing.assert_array_equal(frames[0][1], start)


def test_a_long_training_has_so_many_frames_and_no_more(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(variants, "MAX_FRAMES", 3)
    variants.weights_2d(make_lab(epochs=7), [0], tmp_path, COUNTS)
    for _, frames in drawn.args[1][1]:
        assert [moment for moment, _ in frames] == ["start", "epoch 2", "epoch 5", "epoch 7"]


def test_the_animation_has_a_frame_for_the_start_and_each_epoch(studies, tmp_path):
    here = make_lab(studies, epochs=5)
    variants.weights_2d(here, [2], tmp_path, COUNTS)
    with Image.open(tmp_path / "weights2d.gif") as film:
        assert film.n_frames == 6
    for name in ("weights2d.png", "weights2d.svg"):
        assert (tmp_path / name).stat().st_size > 0
