"""Do samples look like their class, and what does guidance cost in variety?

A support vector machine trained on real images labels the samples. Guidance should raise the
fraction that it labels as requested, and lower the spread within each class: the trade-off of Ho &
Salimans 2022, section 4, at a size where a classical classifier can judge.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.svm import SVC

from cfg_jax import data
from cfg_jax.evaluation.likelihood import open_data
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.strips import Strip, caption
from cfg_jax.study.curves import aligned

MOST_EXAMPLES = 20_000
"""Beyond it fitting takes hours: its time grows with the square of the examples."""


class Verdict(NamedTuple):
    """The judge's numbers of samples at one guidance weight, or of real images (w None).

    classifier_w: weight of a noisy classifier's guidance, 0 for none.
    accuracy: fraction that the judge labels as requested, in [0, 1].
    spread: standard deviation of a pixel within a class, in units of the data range [-1, 1],
      averaged over pixels and classes.
    """

    w: float | None
    accuracy: float
    spread: float
    classifier_w: float = 0.0

    @property
    def name(self) -> str:
        """The weights in words."""
        if self.w is None:
            return "real images"
        return caption(self.w, self.classifier_w).replace("\n", ", ")


def judge(strip: Strip) -> list[Verdict]:
    """Verdicts on held-out real images, then on the samples in each column of a strip.

    The judge is trained on the data set's split `train`, with scikit-learn's choice of kernel
    width, and tested on its split `test`; the data set has both, and is small enough for an SVM.
    ValueError for what `Strip.check` refuses, and for a data set too large.
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
    """A sentence for each accuracy that is too low, and each spread that does not fall.

    Spread is compared between neighbours of which one is guided more, by w or by the classifier.

    Args:
      verdicts: as `judge` gives them.
      min_accuracies: the least accuracy at each weight.
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
    """The verdicts as lines of text."""
    rows = [[v.name, f"{v.accuracy:.3f}", f"{v.spread:.4f}"] for v in verdicts]
    return aligned([["", "accuracy", "spread"], *rows])


def _arrays(model: Model, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The real images [N, H W C] and labels [N] of a split."""
    source = open_data(model, split)
    if len(source) > MOST_EXAMPLES:
        raise ValueError(
            f"{source.name} has {len(source)} examples in split {split}: a support vector machine "
            f"takes {MOST_EXAMPLES} at most"
        )
    examples = data.stack([source[i] for i in range(len(source))])
    return examples["x"].reshape(len(source), -1), examples["labels"]


def _spread(x: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([x[labels == label].std(axis=0).mean() for label in np.unique(labels)]))
