"""What the report says of each figure: a heading, and what to see in it."""

from wbcli.report.figures import Model

WORDS = {  # figure: heading, what to see in it, measured `on` an image set
    "per_class_accuracy": (
        "Accuracy by class",
        "Accuracy of every class on {on}, over its number of training images in grey. A "
        "balanced classifier falls less towards the rare classes on the right.",
    ),
    "class_frequencies": (
        "Class frequencies",
        "Training images of every class, on a log scale, with the limits between Many, Medium "
        "and Few.",
    ),
    "row_norms": (
        "Norms of the classifier rows",
        "Naive training leaves longer rows to common classes, which are then predicted too "
        "often. Weight balancing evens them out.",
    ),
    "marginal_likelihood": (
        "Marginal likelihood",
        "Mean predicted probability of every class over {on}. The nearer to the grey "
        "line, the less the classifier favours common classes.",
    ),
    "reliability": (
        "Reliability",
        "Accuracy against confidence, in 15 bins of the top probability, without a temperature. "
        "Below the diagonal the model is too confident, above it not enough. ECE is the mean "
        "distance from it, weighted by images.",
    ),
    "confusion": (
        "Confusion matrix",
        "Each row shows how the images of one true class in {on} were predicted, in per cent; "
        "classes stand by training images, most first. A bright left edge is a bias towards "
        "common classes.",
    ),
    "learning_curves": (
        "Learning curves",
        "Training loss and accuracy on {on} by epoch, over all classes and by group; thin lines, "
        "where there are any, are accuracy on validation images.",
    ),
    "norm_heat_maps": (
        "Row norms during training",
        "Norm of every classifier row after every epoch, common classes at the top. Without "
        "balancing the upper rows become the brightest.",
    ),
    "filter_norms": (
        "Norms of the filters",
        "For every layer the norms of its filters from high to low (thin), their mean, and one "
        "standard deviation around it. Weight decay makes them smaller and more alike.",
    ),
    "accuracy_against_wd": (
        "Accuracy against weight decay",
        "Stage-1 runs in the same folder that differ in λ alone, last epoch; the best is circled.",
    ),
}


ON = {"test": "the test set", "val": "the validation images"}


def words_of(name: str, models: list[Model]) -> tuple[str, str]:
    title, caption = WORDS[name]
    return title, caption.format(on=ON[models[0]["split"]])
