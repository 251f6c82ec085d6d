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


def main() -> None:
    parser = recording.parser(__doc__, rounds=3)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--images", type=int, default=8, help="images per batch for Inception")
    parser.add_argument("--width", type=int, default=2048, help="columns of the features")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of either set of features")
    given = parser.parse_args()
    wanted = given.programs or list(PROGRAMS)
    if unknown := sorted(set(wanted) - set(PROGRAMS)):
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(PROGRAMS)}")
    recording.use_cores(given.threads)
    from benchmarks import metric_programs  # not before the process has its cores

    times = {}
    for name in wanted:
        programs = getattr(metric_programs, name)(given)
        print(f"{name}: {', '.join(programs)}", flush=True)
        times[name] = recording.interleaved(programs, given.rounds)
    sizes = {"images": given.images, "width": given.width, "rows": given.rows}
    recorded = recording.record(
        f"metrics_threads{given.threads}",
        times,
        settings={"threads": given.threads, **sizes},
        compared="processor" if given.threads == 1 else "wall",
        facts={"rounds": given.rounds},
    )
    recording.save(recorded, given.out)


if __name__ == "__main__":
    main()
