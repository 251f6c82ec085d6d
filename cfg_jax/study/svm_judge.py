"""Do samples look like their class, and how much variety does guidance cost?

A support vector machine trained on real images labels the samples. Guidance should raise the
fraction labelled as requested and lower the spread within each class. This is the trade-off of Ho &
Salimans 2022, section 4, on images small enough for a classical classifier.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.svm import SVC

from cfg_jax import data
from cfg_jax.evaluation.likelihood import open_data
from cfg_jax.io.progress import track
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.strips import Strip, caption
from cfg_jax.study.tables import aligned

MOST_EXAMPLES = 20_000
"""Limit of examples per split: fitting time grows quadratically, to hours beyond it."""


class Verdict(NamedTuple):
    """Metrics of samples at one guidance weight, or of real images (w None).

    classifier_w: weight of classifier guidance; 0 for none.
    accuracy: fraction that the support vector machine labels as requested, in [0, 1].
    spread: standard deviation of a pixel within a class, in units of the data range [-1, 1],
      averaged over pixels and classes.
    """

    w: float | None
    accuracy: float
    spread: float
    classifier_w: float = 0.0

    @property
    def name(self) -> str:
        """The weights as text."""
        if self.w is None:
            return "real images"
        return caption(self.w, self.classifier_w).replace("\n", ", ")


def judge(strip: Strip) -> list[Verdict]:
    """Verdicts on real images, then on the samples in each column of a strip.

    The support vector machine is trained on split `train`, with scikit-learn's default kernel
    width. The real accuracy is on split `test`, the real spread on `train`. Raises ValueError as
    `Strip.check`, and if a split exceeds MOST_EXAMPLES.
    """
    strip.check()
    real, real_labels = _arrays(strip.model, "train")
    held_out, held_out_labels = _arrays(strip.model, "test")
    machine = SVC(C=10.0).fit(real, real_labels)
    verdicts = [Verdict(None, machine.score(held_out, held_out_labels), _spread(real, real_labels))]
    x = strip.draw()
    labels = np.repeat(strip.labels, strip.samples_per_label)
    for column, (w, by) in enumerate(strip.columns):
        drawn = x[:, :, column].reshape(labels.size, -1)
        verdicts.append(Verdict(w, machine.score(drawn, labels), _spread(drawn, labels), by))
    return verdicts


def failures(verdicts: Sequence[Verdict], min_accuracies: Sequence[float]) -> list[str]:
    """A sentence for each accuracy below its minimum, and each spread that does not fall.

    Spread is compared between neighbours if one is guided more, by w or by the classifier.
    `verdicts` come from `judge`; `min_accuracies` has one entry per verdict on samples.
    """
    sampled = [verdict for verdict in verdicts if verdict.w is not None]
    found = [
        f"accuracy {verdict.accuracy:.3f} at {verdict.name}, below {least:g}"
        for verdict, least in zip(sampled, min_accuracies, strict=True)
        if verdict.accuracy < least
    ]
    for weaker, stronger in itertools.pairwise(sampled):
        more = (stronger.w - weaker.w, stronger.classifier_w - weaker.classifier_w)
        if min(more) == 0 < max(more) and stronger.spread >= weaker.spread:
            found.append(
                f"spread {stronger.spread:.4f} at {stronger.name} is not below "
                f"{weaker.spread:.4f} at {weaker.name}"
            )
    return found


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a text table."""
    rows = [[v.name, f"{v.accuracy:.3f}", f"{v.spread:.4f}"] for v in verdicts]
    return aligned([["", "accuracy", "spread"], *rows])


def _arrays(model: Model, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Real images [N, H W C] and labels [N] of a split."""
    source = open_data(model, split)
    if len(source) > MOST_EXAMPLES:
        raise ValueError(
            f"{source.name} has {len(source)} examples in split {split}: a support vector machine "
            f"takes {MOST_EXAMPLES} at most; choose a smaller data set"
        )
    places = track(range(len(source)), "image", first="")
    examples = data.stack([source[i] for i in places], source.num_classes)
    return examples["x"].reshape(len(source), -1), examples["labels"]


def _spread(x: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([x[labels == label].std(axis=0).mean() for label in np.unique(labels)]))
