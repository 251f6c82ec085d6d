"""Do samples look like their class, and what does guidance cost in variety?

A support vector machine trained on real images labels the samples. Guidance should raise the share
that it labels as asked, and lower the spread within each class: the trade-off of Ho & Salimans
2022, section 4, at a size where a classical classifier can judge.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.svm import SVC

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.strips import Strip, caption

MOST_EXAMPLES = 20_000
"""Beyond it fitting takes hours: its time grows with the square of the examples."""


class Verdict(NamedTuple):
    """Of the samples at one guidance weight, or of real images (w None).

    classifier_w: weight of a noisy classifier's guidance, 0 for none.
    accuracy: share that the classifier labels as asked, in [0, 1].
    spread: standard deviation of a pixel within a class, in units of the data range [-1, 1],
      averaged over pixels and classes.
    """

    w: float | None
    accuracy: float
    spread: float
    classifier_w: float = 0.0

    @property
    def name(self) -> str:
        """As it stands in tables and messages."""
        if self.w is None:
            return "real images"
        return caption(self.w, self.classifier_w).replace("\n", ", ")


def judge(
    model: Model,
    weights: Sequence[float],
    *,
    samples_per_label: int,
    **options,
) -> list[Verdict]:
    """Verdicts on held-out real images, then on samples at each weight.

    The judge is trained on the data set's split `train`, with scikit-learn's choice of
    kernel width; the real images it is tested on are those of split `test`.

    Args:
      model: trained on a data set with the splits train and test, small enough for an SVM.
      weights: guidance weights.
      samples_per_label: samples of each class at each weight.
      **options: other fields of `strips.Strip`.

    Raises:
      ValueError: what `Strip.check` refuses, and a data set too large for an SVM.
    """
    classes = range(model.null_label)
    strip = Strip(model, classes, weights, samples_per_label=samples_per_label, **options)
    strip.check()
    real, real_labels = _arrays(model, "train")
    held_out, held_out_labels = _arrays(model, "test")
    machine = SVC(C=10.0).fit(real, real_labels)
    verdicts = [Verdict(None, machine.score(held_out, held_out_labels), _spread(real, real_labels))]
    x = strip.draw()
    labels = np.repeat(classes, samples_per_label)
    for column, (w, by) in enumerate(strip.columns):
        drawn = x[:, :, column].reshape(labels.size, -1)
        verdicts.append(Verdict(w, machine.score(drawn, labels), _spread(drawn, labels), by))
    return verdicts


def failures(
    verdicts: Sequence[Verdict], min_accuracy: Mapping[float | tuple[float, float], float]
) -> list[str]:
    """What the samples fall short of, one sentence each: accuracy, and a spread that falls.

    Spread is compared between neighbours of which one is guided more, by w or by the classifier.

    Args:
      verdicts: of `judge`.
      min_accuracy: {w: least accuracy}, or {(w, classifier_w): ...}.
    """
    sampled = [verdict for verdict in verdicts if verdict.w is not None]
    found = []
    for verdict in sampled:
        least = min_accuracy.get((verdict.w, verdict.classifier_w))
        if least is None:
            least = min_accuracy.get(verdict.w, 0.0)
        if verdict.accuracy < least:
            found.append(f"accuracy {verdict.accuracy:.3f} at {verdict.name}, below {least:g}")
    for weaker, stronger in itertools.pairwise(sampled):
        more = (stronger.w - weaker.w, stronger.classifier_w - weaker.classifier_w)
        if min(more) == 0 < max(more) and stronger.spread >= weaker.spread:
            found.append(
                f"spread {stronger.spread:.4f} at {stronger.name} is not below "
                f"{weaker.spread:.4f} at {weaker.name}"
            )
    return found


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as lines of text."""
    width = max(12, *(len(verdict.name) + 1 for verdict in verdicts))
    lines = [f"{'':{width}}{'accuracy':>10}{'spread':>10}"]
    for verdict in verdicts:
        lines.append(f"{verdict.name:{width}}{verdict.accuracy:10.3f}{verdict.spread:10.4f}")
    return "\n".join(lines)


def _arrays(model: Model, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The real images [N, H W C] and labels [N] of a split."""
    source = data.open_source(split=split, **build.data_arguments(model.config))
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
