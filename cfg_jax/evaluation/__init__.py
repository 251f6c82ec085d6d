"""Evaluation of a model's samples, with every setting recorded.

    network = networks.trained_network(load_classifier("runs/digits/features"))
    reference = evaluation.data_reference(network, open_data(model, "train"), folder)
    samples = evaluation.Samples(model, num_samples=5000, sampling=SamplingSettings(w=1.0))
    result = evaluation.evaluate(samples, network, reference, folder=folder)

`evaluate` draws samples, sums the outputs of a feature network and compares them with a reference.
One call is one cell of a sweep: one model sampled with one setting. Repeating the call resumes it,
or reads the finished `Result`, which holds the metrics and the settings.
"""

from cfg_jax.evaluation.cell import METRICS, check_request, evaluate
from cfg_jax.evaluation.given import GivenImages, open_images
from cfg_jax.evaluation.reference import Reference, data_reference, file_reference
from cfg_jax.evaluation.result import Result, check_comparable, read_result, report, title
from cfg_jax.evaluation.sums import Sums
from cfg_jax.sampling.samples import LABEL_PLANS, Samples
from cfg_jax.sampling.settings import SamplingSettings

__all__ = [
    "LABEL_PLANS",
    "METRICS",
    "GivenImages",
    "Reference",
    "Result",
    "Samples",
    "SamplingSettings",
    "Sums",
    "check_comparable",
    "check_request",
    "data_reference",
    "evaluate",
    "file_reference",
    "open_images",
    "read_result",
    "report",
    "title",
]
