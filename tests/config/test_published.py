"""Schedules, and the recipe `published`: a method's own settings, each with its source."""

from dataclasses import replace

import pytest

from wbcli.config.published import PUBLISHED, published
from wbcli.config.resolve import resolve_stage1, resolve_stage2
from wbcli.config.settings import Config, from_dict
from wbcli.data.sources import SOURCES


def settings(**options) -> Config:
    return resolve_stage1({"dataset": "digitslt", "data_dir": "data"} | options)


def rates(config: Config, *epochs: int) -> list[float]:
    return [config.lr_at(epoch) for epoch in epochs]


def test_warm_up_grows_linearly_and_the_cosine_falls_after_it():
    """η = 0.1, E = 9, W = 5: .02 … .1, then the cosine of 4 epochs from its start."""
    config = settings(lr=0.1, epochs=9, warmup=5)
    expected = [0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.085355, 0.05, 0.014645]
    assert rates(config, *range(9)) == pytest.approx(expected, abs=1e-6)
    assert rates(replace(config, warmup=0), 0, 3, 6) == pytest.approx([0.1, 0.075, 0.025])


def test_steps_fall_after_shares_of_the_epochs():
    """LDAM's: .1 until epoch 159, .001 from 160 on, .00001 from 180 on."""
    config = settings(lr=0.1, epochs=200, schedule="step", warmup=5)
    expected = [0.02, 0.1, 0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5]
    assert rates(config, 0, 4, 5, 159, 160, 179, 180, 199) == pytest.approx(expected)
    config = replace(config, milestones=(0.6, 0.8), step_factor=0.1)
    assert rates(config, 119, 120, 160) == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 100}, "--warmup must be a finite number at least 0 and below 100, got 100"),
        ({"warmup": -1}, "--warmup must be a finite number at least 0 and below 100, got -1"),
        ({"schedule": "flat"}, "--schedule must be one of cosine, step, got 'flat'"),
        ({"milestones": (1.5,)}, "milestones must be a finite number at least 0 and at most 1"),
        ({"milestones": ("x",)}, "milestones must be a list of numbers, got a list of 1"),
        ({"step_factor": 0.0}, "step_factor must be a finite number above 0 and at most 1"),
        ({"recipe": "published"}, "--recipe published: nothing is known of ce on sets in memory"),
    ],
)
def test_schedules_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        settings(**options)
    assert str(error.value).startswith(message)


def test_the_schedule_of_0_1_0_was_what_cosine_end_is():
    from dataclasses import asdict

    values = asdict(settings())
    del values["cosine_end"]
    old = from_dict(values | {"schedule": "to-zero"})
    assert (old.schedule, old.cosine_end) == ("cosine", "to-zero")


def test_published_settings_of_ldam_drw_are_its_authors():
    config = settings(method="ldam-drw", recipe="published")
    found = config.epochs, config.batch_size, config.lr, config.momentum, config.wd
    assert found == (200, 128, 0.1, 0.9, 2e-4)
    assert (config.schedule, config.warmup, config.milestones) == ("step", 5, (0.8, 0.9))
    assert (config.arch, config.recipe) == ("resnet8", "published")
    given = settings(method="ldam-drw", recipe="published", epochs=20, wd=1e-3)
    assert (given.epochs, given.wd, given.lr) == (20, 1e-3, 0.1), "what is given comes first"
    assert settings(method="ldam-drw").epochs == 100, "the default is the recipe of the harness"


def test_sets_on_disk_take_what_was_published_for_large_sets():
    large = published("logit-adjustment", SOURCES["imagenetlt"])
    assert (large["wd"].value, large["lr"].value, large["epochs"].value) == (5e-4, 0.4, 90)
    assert published("logit-adjustment", SOURCES["inat18"])["wd"].value == 1e-4
    with pytest.raises(ValueError) as error:
        published("ldam", SOURCES["imagenetlt"])
    assert str(error.value) == (
        "--recipe published: nothing is known of ldam on sets on disk; there it has "
        "logit-adjustment, deconfound: use --recipe paper"
    )


def test_every_value_has_a_source_and_can_be_had():
    for method, groups in PUBLISHED.items():
        for values in groups.values():
            assert all(default.source for default in values.values())
            replace(settings(method=method), **{key: v for key, (v, _) in values.items()})


def test_stage_2_after_a_published_run_has_the_recipe_of_the_paper():
    parent = settings(method="ldam", recipe="published")
    child = resolve_stage2(parent, "parent", {})
    assert (child.recipe, child.schedule, child.warmup, child.epochs) == ("paper", "cosine", 0, 10)
    with pytest.raises(ValueError, match=r"^--recipe published is of stage 1"):
        resolve_stage2(parent, "parent", {"recipe": "published"})


def test_changed_settings_reach_the_method_and_its_classifier():
    config = settings(method="ldam").changed({"max-margin": 0.2, "scale": 10.0, "wd": 0.1})
    assert config.options() | {"beta": 0} == {
        "max_margin": 0.2,
        "scale": 10.0,
        "beta": 0,
        "defer_from": 0.8,
    }
    assert (config.heads, config.wd) == ((("cosine", {"scale": 10.0}),), 0.1)
    assert settings(method="logit-adjustment").changed({"tau": 0.5}).tau == 0.5
    with pytest.raises(ValueError, match=r"^--tau: the method ce does not have it"):
        settings(method="ce").changed({"tau": 0.5})
    with pytest.raises(ValueError, match=r"^--max-margin must be a finite number at least 0"):
        settings(method="ldam").changed({"max-margin": -1.0})
