"""Times of the metrics against torch-fidelity, pytorch-fid and plain NumPy, on made-up data.

    pip install torch torch-fidelity pytorch-fid
    python benchmarks/metrics.py                       # all of it
    python benchmarks/metrics.py precision_recall      # needs NumPy only

Values are compared before they are timed. The Inception network has random weights of the published
form, so nothing is downloaded.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import recording  # noqa: E402

PROGRAMS = ("inception", "frechet", "precision_recall")  # functions of metric_programs.py
NEIGHBORS = 3  # of a row, in precision and recall


def main() -> None:
    parser = recording.parser(__doc__, rounds=3, threads=1)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    positive, rows = recording.positive, recording.at_least(NEIGHBORS + 1)
    parser.add_argument("--images", type=positive, default=8, help="images per batch for Inception")
    parser.add_argument("--width", type=positive, default=2048, help="columns of the features")
    parser.add_argument("--rows", type=rows, default=10_000, help="rows of either set of features")
    parser.set_defaults(k=NEIGHBORS)
    given = parser.parse_args()
    wanted = given.programs or list(PROGRAMS)
    if unknown := sorted(set(wanted) - set(PROGRAMS)):
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(PROGRAMS)}")
    sizes = {"images": given.images, "width": given.width, "rows": given.rows}
    benchmark, settings = f"metrics_threads{given.threads}", {"threads": given.threads, **sizes}
    path = recording.destination(benchmark, wanted, settings, given.out)
    recording.use_cores(given.threads)
    from benchmarks import metric_programs  # not before the process has its cores

    times = {}
    for metric in wanted:
        programs = getattr(metric_programs, metric)(given)
        print(f"{metric}: {', '.join(programs)}", flush=True)
        times[metric] = recording.interleaved(programs, given.rounds)
    recorded = recording.record(
        benchmark,
        times,
        settings=settings,
        compared=recording.measure(given.threads),
        facts={"rounds": given.rounds},
    )
    recording.save(recorded, path)


if __name__ == "__main__":
    main()
