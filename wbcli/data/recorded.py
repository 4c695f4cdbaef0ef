"""The data set of a run: exactly the images that it recorded."""

from dataclasses import replace
from pathlib import Path

from wbcli.data import chosen, features, longtail, record, sources
from wbcli.data.datasets import SELECTION, Dataset, Split, load, read, take, without_val
from wbcli.data.left_out import no_test_pictures, usable
from wbcli.data.record import Record
from wbcli.files.readers import Arrays, Content


def for_run(
    config,
    recorded: Record | None = None,
    *,
    data_dir: Path | None = None,
    content: Content | None = None,
    trains: bool = False,
) -> Dataset:
    """The data set of a run's Config: with a record exactly the images that it says.

    Args:
        recorded: of the run whose images these are, or that it follows; None: there is none yet.
        data_dir: None takes the run's.
        content: what `read` found, where it was read before.
        trains: the images are for training. Where the record does not say which trained,
            those of now do, and the counts are theirs.

    Raises:
        ValueError: other classes than the record's, and what `load` raises.
    """
    content = content or read(config.dataset, data_dir or config.data_dir)
    if recorded:
        record.check_classes(recorded.run, recorded.class_names, content.class_names)
    if recorded and config.val_per_class and content.val:  # it was not there, or not known
        content = without_val(content)
    if recorded and recorded.images:
        return _as_recorded(config, recorded, content)
    if recorded is None:
        return _selected(config, content)
    dataset = _as_before(config, recorded, content) or _selected(config, content)
    return _compared(dataset, config, recorded, trains)


def _selected(config, content: Content, **how) -> Dataset:
    selection = {key: getattr(config, key) for key in SELECTION}
    dataset = load(config.dataset, config.data_dir, content=content, **selection, **how)
    return replace(dataset, source=sources.of_run(config))


def _as_before(config, recorded: Record, content: Content) -> Dataset | None:
    """What the rule of wbcli 0.1.0 selects, where that gives the counts that the run recorded."""
    if config.imbalance_factor is None:
        return None
    try:
        dataset = _selected(config, content, as_before=True)
    except longtail.SettingError:
        return None
    return dataset if dataset.class_counts == recorded.class_counts else None


def _as_recorded(config, recorded: Record, content: Content) -> Dataset:
    """The data set with the images that trained a run and those that it held out."""
    source = sources.of_run(config)
    content = features.divided(content, config.val, config.test)
    left_out = no_test_pictures(content) | set(config.left_out or ())
    content = usable(content, config.dataset, left_out, whole=False)
    held_out_of = content.train if config.val_per_class else content.val
    splits, lost = {}, {}
    for name, pool, what in (
        ("train", content.train, "trained it"),
        ("val", held_out_of, "were held out"),
    ):
        images = getattr(recorded.images, name)
        if images is None:
            continue
        pool = pool or _nothing(content.train)  # val/ is there no more
        places, *others = images.find(*pool)
        splits[name] = take(pool, places)
        if said := chosen.lost(images, *others, what):
            lost[name] = said
    test = content.test and chosen.Measured.of(*content.test)
    changes = list(lost.values())
    if recorded.images.test:
        changes += filter(None, [recorded.images.test.changed(test)])
    if source.image_size or not lost:  # places that hold others now are no count of new images
        new = recorded.images.new(filter(None, (content.train, content.val)))
        changes += filter(None, [record.unused(new, "picture" if source.image_size else "image")])
    return Dataset(
        name=config.dataset,
        source=source,
        train=splits["train"],
        test=Split(*content.test) if content.test else None,
        val=splits.get("val"),
        class_names=content.class_names,
        class_counts=recorded.class_counts or recorded.images.counts(),
        original_counts=recorded.original_counts,
        limits=recorded.limits,
        image_size=config.image_size or source.image_size,
        fit=config.fit,
        notes=content.notes,
        chosen=recorded.images._replace(test=test),
        changes=([recorded.changed(*changes)] if changes else [])
        + [recorded.unchecked_hold_out()] * recorded.images.guessed
        + [recorded.unknown_groups()] * (recorded.original_counts is None),
        gone=dict.fromkeys(lost, f"{recorded.changed(*lost.values())}: {record.REMEDY}"),
    )


def _compared(dataset: Dataset, config, recorded: Record, trains: bool) -> Dataset:
    """The data set as it is now, for a run that did not record its images."""
    original_counts, changes, gone = recorded.original_counts, [], {}
    agrees = recorded.class_counts == dataset.class_counts
    if config.val_per_class:
        changes = [recorded.unchecked_hold_out()]
        dataset = replace(dataset, chosen=dataset.chosen._replace(guessed=True))
    if not agrees and recorded.class_counts is not None:
        changed = recorded.changed_counts(dataset.class_counts)
        changes = [changed]
        anew = f"{changed}, and the run does not say which {{}}: {record.REMEDY}"
        gone = {"val": anew.format("were held out")} if config.val_per_class else {}
        if trains:
            changes = [f"{changed}, and the run does not say which: those of now train"]
        else:
            gone["train"] = anew.format("trained it")
    if trains:
        return replace(dataset, changes=changes, gone=gone)
    if agrees:
        original_counts = original_counts or dataset.original_counts
    if original_counts is None:
        changes.append(recorded.unknown_groups())
    return replace(
        dataset,
        class_counts=recorded.class_counts,
        original_counts=original_counts,
        limits=recorded.limits,
        chosen=dataset.chosen if agrees else None,
        changes=changes,
        gone=gone,
    )


def _nothing(arrays: Arrays) -> Arrays:
    return arrays[0][:0], arrays[1][:0]
