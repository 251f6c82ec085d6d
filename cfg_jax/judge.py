"""Do samples look like their class, and what does guidance cost in variety?

A support vector machine trained on real images labels the samples. Guidance should raise the share
that it labels as asked, and lower the spread within each class: the trade-off of Ho & Salimans
2022, section 4, at a size where a classical classifier can judge.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.svm import SVC

from cfg_jax import data, experiment, generate
from cfg_jax.model import Model

MOST_EXAMPLES = 20_000
"""Beyond it fitting takes hours: its time grows with the square of the examples."""


class Verdict(NamedTuple):
    """Of the samples at one guidance weight, or of real images (w None).

    accuracy: share that the classifier labels as asked, in [0, 1].
    spread: standard deviation of a pixel within a class, in units of the data range [-1, 1],
      averaged over pixels and classes.
    """

    w: float | None
    accuracy: float
    spread: float


def judge(
    model: Model, weights: Sequence[float], *, samples_per_label: int, seed: int = 0, **options
) -> list[Verdict]:
    """Verdicts on held-out real images, then on samples at each weight.

    The classifier is trained on the data set's split `train`, with scikit-learn's choice of
    kernel width; the real images it is tested on are those of split `test`.

    Args:
      model: trained on a data set with the splits train and test, small enough for an SVM.
      weights: guidance weights.
      samples_per_label: samples of each class at each weight.
      seed: of the noise, the same at every weight.
      **options: of `generate.guided`.
    """
    real, real_labels = _arrays(model, "train")
    held_out, held_out_labels = _arrays(model, "test")
    classifier = SVC(C=10.0).fit(real, real_labels)
    verdicts = [
        Verdict(None, classifier.score(held_out, held_out_labels), _spread(real, real_labels))
    ]
    classes = range(model.null_label)
    x = generate.guided(
        model, seed, classes, weights, samples_per_label=samples_per_label, **options
    )
    labels = np.repeat(classes, samples_per_label)
    for column, w in enumerate(weights):
        drawn = x[:, :, column].reshape(labels.size, -1)
        verdicts.append(Verdict(w, classifier.score(drawn, labels), _spread(drawn, labels)))
    return verdicts


def failures(verdicts: Sequence[Verdict], min_accuracy: dict[float, float]) -> list[str]:
    """What the samples fall short of, one sentence each: accuracy, and a spread that falls with w.

    Args:
      verdicts: of `judge`; weights ascending.
      min_accuracy: {w: least accuracy}.
    """
    sampled = [verdict for verdict in verdicts if verdict.w is not None]
    found = [
        f"accuracy {verdict.accuracy:.3f} at w = {verdict.w:g}, below {min_accuracy[verdict.w]:g}"
        for verdict in sampled
        if verdict.accuracy < min_accuracy.get(verdict.w, 0.0)
    ]
    for weaker, stronger in zip(sampled, sampled[1:], strict=False):
        if stronger.spread >= weaker.spread:
            found.append(
                f"spread {stronger.spread:.4f} at w = {stronger.w:g} is not below "
                f"{weaker.spread:.4f} at w = {weaker.w:g}"
            )
    return found


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as lines of text."""
    lines = [f"{'':12}{'accuracy':>10}{'spread':>10}"]
    for verdict in verdicts:
        name = "real images" if verdict.w is None else f"w = {verdict.w:g}"
        lines.append(f"{name:12}{verdict.accuracy:10.3f}{verdict.spread:10.4f}")
    return "\n".join(lines)


def _arrays(model: Model, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The real images [N, H W C] and labels [N] of a split."""
    source = data.open_source(split=split, **experiment.data_arguments(model.config))
    if len(source) > MOST_EXAMPLES:
        raise ValueError(
            f"{source.name} has {len(source)} examples in split {split}: a support vector machine "
            f"takes {MOST_EXAMPLES} at most"
        )
    examples = [source[i] for i in range(len(source))]
    x = np.stack([example["x"].ravel() for example in examples])
    return x, np.array([example["label"] for example in examples])


def _spread(x: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([x[labels == label].std(axis=0).mean() for label in np.unique(labels)]))
