import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats

from cfg_jax.config import build
from cfg_jax.evaluation import Reference, SamplingSettings
from cfg_jax.evaluation.networks import FeatureNetwork, Outputs
from cfg_jax.metrics import Moments
from cfg_jax.sampling.model import Model
from cfg_jax.study import claims, curves, figures, files, seeds, sweep, tables, tiles
from cfg_jax.study.claims import FAILS, HOLDS, IN_PART, NOT_MEASURED
from cfg_jax.study.paper_tables import TABLE_1, TABLE_2, published
from configs import imagenet64
from tests.programs import ROOT, environment
from tests.sweep_results import made_result, paper_results
from tests.tiny import tiny_config

SHAPE = (8, 8, 1)


def line(fids, scores, weights=(0, 0.1, 0.3, 1, 4), **swept):
    """Results of one cell per weight."""
    return [made_result(*cell, **swept) for cell in zip(weights, fids, scores, strict=True)]


GOOD = line([2.0, 1.5, 1.8, 3.0, 6.0], [8.0, 8.5, 8.9, 9.3, 9.6])


def verdicts(results):
    return [claim.verdict for claim in claims.check_claims(results)]


def test_the_tables_of_the_paper_pass_the_paper_s_claims():
    assert verdicts(paper_results(TABLE_1)) == [HOLDS, HOLDS, HOLDS, NOT_MEASURED]
    assert verdicts(paper_results(TABLE_2)) == [HOLDS, HOLDS, NOT_MEASURED, HOLDS]


def test_verdicts_come_with_the_numbers_they_rest_on():
    _, dips, worse, _ = claims.check_claims(paper_results(TABLE_1))
    assert dips.numbers[0].startswith("p_uncond = 0.1: lowest 1.550 at w = 0.1, 1.800 at w = 0")
    # The curve of p_uncond = 0.1, from 53.71, reaches 13 of the 14 IS of p_uncond = 0.5.
    assert worse.numbers[0].endswith(
        "minimum distance 1.550, against 1.910 for p_uncond = 0.5, which has the larger distance "
        "at 13 of 13 points of equal score"
    )
    steps = claims.check_claims(paper_results(TABLE_2))[-1]
    assert "3.020 at T = 128, 2.430 at T = 256, 2.430 at T = 1024" in steps.numbers[0]
    assert steps.numbers[0].endswith("not lower beyond T = 256")


@pytest.mark.parametrize(
    ("scores", "verdict", "fall"),
    [
        ([8.0, 8.5, 8.9, 9.3, 9.2], IN_PART, "9.300 at w = 1 to 9.200 at w = 4"),
        ([8.0, 8.5, 8.9, 9.3, 7.9], FAILS, "9.300 at w = 1 to 7.900 at w = 4"),
        ([8.0, 8.5, 8.4, 8.9, 8.8], FAILS, "8.900 at w = 1 to 8.800 at w = 4"),
        ([8.0, 8.5, 8.9, 9.3, 9.3], IN_PART, "9.300 at w = 1 to 9.300 at w = 4"),
    ],
)
def test_a_score_that_falls_breaks_the_first_claim_at_least_in_part_and_is_shown(
    scores, verdict, fall
):
    rises = claims.check_claims(line([2.0, 1.5, 1.8, 3.0, 6.0], scores))[0]
    assert rises.verdict == verdict
    assert fall in rises.numbers[0]


def test_a_claim_that_one_of_two_curves_keeps_holds_in_part():
    other = line([2.0, 1.5, 1.8, 3.0, 6.0], [8.0, 7.5, 8.9, 9.3, 9.6], p_uncond=0.2)
    assert verdicts(GOOD + other)[:2] == [IN_PART, HOLDS]


@pytest.mark.parametrize(
    "fids",
    [
        [1.4, 1.5, 1.8, 3.0, 6.0],  # lowest without guidance
        [2.0, 1.9, 1.8, 1.5, 6.0],  # lowest at w = 1
        [2.0, 1.5, 1.8, 3.0, 2.9],  # falls again
    ],
)
def test_a_distance_that_does_not_dip_at_a_small_weight_breaks_the_second_claim(fids):
    results = line(fids, [8.0, 8.5, 8.9, 9.3, 9.6])
    assert verdicts(results)[:2] == [HOLDS, FAILS]


def test_a_better_curve_of_p_uncond_one_half_breaks_the_third_claim():
    better = line([1.9, 1.4, 1.7, 2.9, 5.9], [8.0, 8.5, 8.9, 9.3, 9.6], p_uncond=0.5)
    assert verdicts(GOOD + better)[2] == FAILS
    # A lower minimum distance, but a larger distance at high scores.
    mixed = line([1.9, 1.4, 2.7, 3.9, 6.9], [8.0, 8.5, 8.9, 9.3, 9.6], p_uncond=0.5)
    assert verdicts(GOOD + mixed)[2] == IN_PART


def test_steps_that_still_help_at_the_greatest_t_break_the_fourth_claim():
    coarse = line([4.0, 3.0, 5.0], [8.0, 8.5, 8.9], (0, 0.1, 4), num_steps=8)
    verdict = claims.check_claims(GOOD + coarse)[3]
    assert verdict.verdict == FAILS
    assert "50.0 per cent lower beyond T = 8" in verdict.numbers[0]
    as_good = line([2.0, 1.54, 6.0], [8.0, 8.5, 8.9], (0, 0.1, 4), num_steps=8)
    assert verdicts(GOOD + as_good)[3] == HOLDS


def test_claims_without_their_cells_are_not_measured():
    found = claims.check_claims(line([2.0], [8.0], [0]))
    assert [claim.verdict for claim in found] == [NOT_MEASURED] * 4
    needed = ("two weights w", "a w above 0 and up to 0.5", "p_uncond = 0.5", "two or more T")
    assert all(need in claim.numbers[0] for need, claim in zip(needed, found, strict=True))


def test_reasons_for_chance_are_said_once():
    def cells(count):
        return [seeds.mean([made_result(w, 2, 8)] * count) for w in (0, 1)]

    one, several = cells(1), cells(2)
    assert [line.partition(":")[0] for line in claims.cautions(one)] == ["one seed of 5000 samples"]
    assert claims.cautions(several) == []
    for result in several:
        result.record["warnings"].append("fid: 60 samples for features of 64 numbers")
    assert claims.cautions(several) == ["fid: 60 samples for features of 64 numbers"]


def test_temperatures_and_classifiers_are_judged_against_the_cells_without_them():
    colder = [made_result(0, 3.0, 8.2, noise_temperature=0.9)]
    classifier = line([1.7, 3.5], [8.6, 9.0], [0, 0], classifier="ef" * 32)
    for result, by in zip(classifier, (0.5, 2.0), strict=True):
        result.swept["classifier_w"] = by
    trades, temperatures = claims.check_claims(GOOD + colder + classifier)[4:]
    assert (trades.verdict, temperatures.verdict) == (HOLDS, HOLDS)
    assert "0.9: 3.000 / 8.200 (beaten)" in temperatures.numbers[0]
    # The curve over classifier_w starts at the cell without a classifier.
    (curve,) = curves.families(GOOD + classifier).others
    assert curve.values == [0.0, 0.5, 2.0] and curve.metric("fid") == [2.0, 1.7, 3.5]
    unbeaten = [made_result(0, 1.0, 9.9, noise_temperature=0.9)]
    assert verdicts(GOOD + unbeaten)[-1] == FAILS


@pytest.mark.parametrize(("fid", "verdict"), [(2.5, HOLDS), (2.3, FAILS)])
def test_between_two_weights_the_distance_at_a_score_is_interpolated(fid, verdict):
    # GOOD has 1.8 at 8.9 and 3.0 at 9.3, so 2.4 at 9.1.
    colder = [made_result(0, fid, 9.1, noise_temperature=0.9)]
    assert verdicts(GOOD + colder)[-1] == verdict


def test_numbers_stand_in_their_row_and_column():
    results = GOOD[::-1] + line([2.5, 2.6], [7.0, 7.5], [0, 0.3], p_uncond=0.5)
    table = tables.tables(results)["table_w"]
    assert table.head == ["w", "p_uncond = 0.1", "p_uncond = 0.5"]
    assert [row[0] for row in table.rows] == ["0", "0.1", "0.3", "1", "4"]
    assert table.rows[1][1] == "1.500* / 8.500 " and table.rows[4][1] == "6.000  / 9.600*"
    assert table.rows[2][2] == "2.600  / 7.500*" and table.rows[1][2] == "-"
    lines = table.text().splitlines()
    assert lines[0].startswith("Frechet distance in digits_features / score in digits_features, of")
    assert len({len(line) for line in lines[2:]}) == 1


def test_columns_are_steps_in_the_other_table_and_cells_of_other_samplers_stay_out():
    ddim = line([9.0], [9.0], [0], solver="ddim")
    coarse = line([4.0, 3.0], [8.0, 8.5], (0, 0.1), num_steps=8)
    other = line([4.0, 3.0], [8.0, 8.5], (0, 0.1), p_uncond=0.2)
    found = tables.tables(ddim + other + GOOD + coarse)
    assert found["table_T"].head == ["w", "T = 8", "T = 32"]
    assert found["table_T"].rows[0] == ["0", "4.000  / 8.000 ", "2.000  / 8.000 "]
    assert found["table_w"].head == ["w", "p_uncond = 0.1", "p_uncond = 0.2"]
    assert [row[0] for row in found["table_cells"].rows][:2] == [
        "p_uncond = 0.1, ddim, T = 32, w = 0",
        "p_uncond = 0.2, T = 32, w = 0",
    ]
    # 5,000 samples are one split of the score, without deviation.
    assert found["table_cells"].rows[0][1:] == ["9.0000", "9.0000"]
    several = paper_results(TABLE_1)
    assert tables.tables(several)["table_cells"].head[-1] == "IS, deviation over splits"


def test_cells_that_differ_in_steps_and_weight_only_are_in_ascending_order():
    cells = [(1, 32), (0, 32), (0, 8), (1, 8)]
    results = [made_result(w, 2, 8, num_steps=steps) for w, steps in cells]
    results.insert(1, made_result(0, 3, 8, noise_temperature=0.9))
    rows = [
        row[0].removeprefix("p_uncond = 0.1, ")
        for row in tables.tables(results)["table_cells"].rows
    ]
    assert rows[:4] == ["T = 8, w = 0", "T = 8, w = 1", "T = 32, w = 0", "T = 32, w = 1"]
    assert rows[4:] == ["T = 32, w = 0, noise temperature 0.9"]


def test_solvers_and_kinds_of_guidance_are_columns_and_are_named():
    others = [
        line([1.9, 1.8], [8.0, 8.5], (0, 0.1), solver="unipc_2", grid="karras"),
        line([2.5, 2.4], [8.0, 8.5], (0, 0.1), solver="ddim", eta=0.5),
        line([2.6, 2.3], [8.0, 8.5], (0, 0.1), schedule="linear", interval=[-1.0, 3.0]),
        line([2.7, 2.2], [8.0, 8.5], (0, 0.1), rule="apg:r=2", weaker="ab" * 32),
    ]
    results = [*GOOD, *(result for cells in others for result in cells)]
    table = tables.tables(results)["table_sampler"]
    assert sorted(table.head[1:]) == [
        "ancestral",
        "apg:r=2, weaker model abababababab",
        "ddim, eta 0.5",
        "linear weight, interval [-1, 3)",
        "unipc_2, karras grid",
    ]
    assert "table_sampler" not in tables.tables(GOOD)
    assert "frontier_sampler" in figures.frontiers(results)


def test_distance_against_calls_is_a_curve_per_solver_at_one_weight():
    results = [
        result
        for solver, fids in (("ancestral", [4.0, 2.0, 1.0]), ("unipc_2", [1.5, 1.1, 1.0]))
        for count, fid in zip((8, 16, 32), fids, strict=True)
        for result in line([fid, fid], [8.0, 8.5], (0, 0.1), solver=solver, num_steps=count)
    ]
    found = curves.families(results).over_calls
    assert [curve.name for curve in found] == ["ancestral", "unipc_2"]
    assert [curve.values for curve in found] == [[8, 16, 32]] * 2
    assert [curve.metric("fid") for curve in found] == [[4.0, 2.0, 1.0], [1.5, 1.1, 1.0]]
    table = tables.tables(results)["table_calls"]
    assert table.head == ["solver", "T = 8", "T = 16", "T = 32"]
    assert table.caption.endswith("w = 0")
    assert table.rows[1] == ["unipc_2", "1.500* / 8.000*", "1.100* / 8.000*", "1.000* / 8.000*"]
    longer = line([0.5], [8.0], (0,), solver="unipc_2", num_steps=64)
    assert tables.tables(results + longer)["table_calls"].rows[0][-1] == "-"
    assert "calls" in figures.frontiers(results) and "calls" not in figures.frontiers(GOOD)


def test_a_run_given_twice_counts_once():
    assert tables.tables(GOOD * 2)["table_w"] == tables.tables(GOOD)["table_w"]
    assert claims.check_claims(GOOD * 2) == claims.check_claims(GOOD)


def test_runs_of_one_p_uncond_are_told_apart():
    again = line([2.0, 1.5], [8.0, 8.5], (0, 0.1), model="another")
    names = [curve.name for curve in curves.families(GOOD + again).over_p]
    assert sorted(names) == ["p_uncond = 0.1, model anothe", "p_uncond = 0.1, model model0"]


def test_published_numbers_stand_beside_cells_of_the_same_model_sampler_and_protocol_only():
    results = paper_results(TABLE_1)
    table = tables.guidance_table(curves.families(results).over_p)
    assert table.head[1:3] == ["p_uncond = 0.1", "published"]
    assert table.rows[1][2] == "1.55* / 66.11 " and table.rows[13][6] == "21.48  / 225.10*"
    table = tables.guidance_table(curves.families(paper_results(TABLE_2)).over_t)
    assert table.rows[3][4] == "2.43* / 158.47 "
    wider = imagenet64.get_config()
    wider.model.channels = 256
    adm = imagenet64.get_config()
    adm.data.resize = "adm"
    inception = {"protocol": results[0].protocol, "num_steps": 256}
    unlike = [
        GOOD[1],
        paper_results(TABLE_1, num_samples=5000)[3],
        paper_results(TABLE_1, network="digits_features")[3],
        made_result(0.1, 1, 1, config=wider, **inception),
        made_result(0.1, 1, 1, config=adm, **inception),
        made_result(0.15, 1, 1, config=imagenet64.get_config(), **inception),
        made_result(0.1, 1, 1, config=imagenet64.get_config(), **inception | {"num_steps": 128}),
        made_result(0.1, 1, 1, config=imagenet64.get_config(), **inception, solver="ddim"),
    ]
    assert [published(result) for result in unlike] == [None] * len(unlike)
    alike = made_result(0.1, 1, 1, config=imagenet64.get_config(), **inception)
    assert published(alike) == (1.55, 66.11)
    del alike.record["config"]["data"]["resize"]  # a result of an older version
    assert published(alike) == (1.55, 66.11)


def test_results_of_unlike_protocols_meet_in_no_table_plot_or_claim():
    results = GOOD + [made_result(2, 3.0, 9.0, protocol={"num_samples": 50})]
    for make in (tables.tables, claims.check_claims, figures.frontiers):
        with pytest.raises(ValueError, match="num_samples is 5000 in .* and 50 in"):
            make(results)
    mixed = curves.Curve("", "w", results)
    for make in (figures.frontier, tables.guidance_table):
        with pytest.raises(ValueError, match="num_samples"):
            make([mixed])


def test_results_are_read_back_as_they_were_and_the_csv_has_every_number(tmp_path):
    results = GOOD + [made_result(0, 3.0, 8.2, noise_temperature=0.9)]
    files.write(tmp_path, results, {"frontier_w": figures.frontiers(GOOD)["frontier_w"]})
    names = ["frontier_w.png", "results.csv", "results.json", "table_cells.txt", "table_w.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert files.read_results(tmp_path / "results.json") == results
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["fid"]) for row in rows] == [r.metrics["fid"] for r in results]
    assert [float(row["w"]) for row in rows] == [r.swept["w"] for r in results]
    assert rows[-1]["noise_temperature"] == "0.9" and rows[0]["seed"] == "0"
    assert json.loads(rows[0]["image_shape"]) == [8, 8, 1]
    (tmp_path / "results.json").write_text("[1]")
    with pytest.raises(ValueError, match="cfg-jax sweep"):
        files.read_results(tmp_path / "results.json")


def test_a_sweep_that_fails_leaves_the_numbers_of_the_cells_before(tmp_path):
    def measured():
        yield from GOOD[:2]
        raise RuntimeError("the third cell")

    with pytest.raises(RuntimeError, match="the third cell"):
        files.collect(measured(), tmp_path)
    assert files.read_results(tmp_path / "results.json") == GOOD[:2]
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
    assert files.collect(GOOD, None) == GOOD


@pytest.fixture(scope="module")
def model():
    config = tiny_config(**{"model.attention_resolutions": ()})
    shapes = jax.eval_shape(build.assemble(config, SHAPE, 10).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), shapes)
    return Model(config, params, step=4, shape=SHAPE, label_names=tuple("0123456789"))


def with_config(model, **overrides):
    """The same parameters under another config, compiled again."""
    config = model.config.copy_and_resolve_references()
    config.update_from_flattened_dict(overrides)
    names = model.label_names
    return Model(config, model.params, step=model.step, shape=model.shape, label_names=names)


def four_pixels(images):
    """Features are four pixels, logits four others."""
    flat = images.reshape(len(images), -1).astype(np.float32) / 255
    return Outputs(flat[:, 20:24], flat[:, 30:34], None)


def test_a_sweep_measures_every_cell_once(model, tmp_path, capsys, monkeypatch):
    network = FeatureNetwork("pixels", "0" * 64, "none", four_pixels)
    moments = Moments(np.full(4, 0.5), np.eye(4), 1500)
    reference = Reference("made up", "1" * 64, "0" * 64, SHAPE, 1500, moments, None, None)
    other = with_config(model, **{"diffusion.p_uncond": 0.5})
    runs = [sweep.Run(tmp_path / "a", model), sweep.Run(tmp_path / "b", other)]
    cells = sweep.plan(
        sweep.share_programs(runs),
        weights=[0, 1],
        other_weights=[1],
        num_steps=[2],
        # Temperature 1 is the existing cell at w = 0.
        older=sweep.OlderWays(score_temperatures=[1, 1.5]),
    )
    assert [cell.run.model.config.diffusion.p_uncond for cell in cells] == [0.1, 0.1, 0.5, 0.1]
    calls = []

    def drawn(self, key, settings, *, labels, **rest):
        """Noise from the keys, shifted by the swept settings, without compiling a sampler."""
        w = np.asarray(settings.w)
        calls.append(float(np.mean(w)))
        seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
        noise = np.random.default_rng(seed).standard_normal((len(labels), *SHAPE))
        shift = np.reshape(w, (-1, 1, 1, 1)) + labels[:, None, None, None] / 10
        return np.tanh((noise + shift) / settings.score_temperature)

    monkeypatch.setattr(Model, "draw", drawn)
    options = {"num_samples": 20, "batch_size": 20}
    first = list(sweep.measure(cells, network, reference, **options))
    assert calls == [0.0, 1.0, 1.0, 0.0]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cell")]
    assert len(said) == 4 and said[2].startswith("cell 3/4  p_uncond = 0.5, T = 2, w = 1: Frechet")
    assert list(sweep.measure(cells, network, reference, **options)) == first and len(calls) == 4
    over_seeds = list(sweep.measure(cells[:1], network, reference, num_seeds=3, **options))[0]
    singles = [
        next(sweep.measure(cells[:1], network, reference, seed=seed, **options))
        for seed in range(3)
    ]
    fids = [single.metrics["fid"] for single in singles]
    assert singles[0] == first[0] and len(set(fids)) == 3
    assert over_seeds.metrics["fid"] == pytest.approx(sum(fids) / 3)
    assert seeds.error(over_seeds, "fid") == pytest.approx(scipy.stats.sem(fids))
    del calls[4:]
    # Equal parameters and noise give equal samples under another p_uncond.
    assert first[1].metrics == first[2].metrics
    assert len({result.metrics["fid"] for result in first}) == 3
    assert [result.swept["p_uncond"] for result in first] == [0.1, 0.1, 0.5, 0.1]
    assert list(tables.tables(first)) == ["table_w", "table_cells"]
    shown = tiles.strip_of(runs[0].model, [0, 1], cells[0].sampling, 0)
    drawn, stored = (tiles.tiles(shown, tmp_path) for _ in range(2))
    assert len(list(tmp_path.glob("samples_*.png"))) == 1 and len(calls) == 5
    assert drawn.captions == ["w = 0", "w = 1"] and drawn.images.shape == (10, 2, 64, 64, 3)
    np.testing.assert_array_equal(drawn.images, stored.images)


def test_the_report_shows_samples_at_weights_that_were_measured(model):
    def shown(fids):
        results = [made_result(w, fid, 8, model=model.sha256) for w, fid in fids.items()]
        others = [made_result(9, 0.1, 8), made_result(0, 0.1, 8, noise_temperature=0.9)]
        strip = tiles.strip_of(model, [0, 1, 4], SamplingSettings(), 0)
        return tiles.at_measured_weights(strip, others + results).weights

    assert shown({0: 3, 3: 1, 1: 2}) == [0, 1, 3]
    assert shown({0: 3, 0.1: 2, 0.3: 1, 1: 2, 2: 3, 4: 9}) == [0, 0.3, 4]
    assert shown({0: 3, 0.1: 4, 0.3: 5, 1: 6, 2: 7, 4: 9}) == [0, 4]


def test_the_time_left_of_a_sweep_is_in_seconds_below_two_minutes(model, monkeypatch, capsys):
    run = sweep.Run(Path("a"), model)
    cells = sweep.plan([run], weights=[0, 1, 2, 3, 4], num_steps=[2])
    times = itertools.chain([0, 100], itertools.count(100, 40))  # the first cell also compiles
    monkeypatch.setattr(sweep.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(sweep.evaluation, "evaluate", lambda *_, **__: made_result(0, 1, 2))
    list(sweep.measure(cells, None, None, num_samples=20))
    said = [line.rpartition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    left = [f"40 s, {rest} left" for rest in ("2.0 min", "80 s", "40 s")]
    assert said == ["100 s, 6.7 min left", *left, "40 s"]


def test_means_over_seeds_have_errors_in_tables_plots_and_files(tmp_path):
    def over_seeds(w, fids):
        cells = [made_result(w, fid, 9 - fid) for fid in fids]
        return seeds.mean([cell._replace(path=cells[0].path) for cell in cells])

    results = [over_seeds(0, [1.0, 2.0, 3.0]), over_seeds(1, [4.0, 4.0, 4.0])]
    found = tables.tables(results)
    assert "mean and standard error over 3 seeds" in found["table_w"].caption
    # The standard deviation of 1, 2, 3 is 1.
    assert found["table_w"].rows[0][1] == "2.000 ± 0.577* / 7.000 ± 0.577*"
    assert found["table_cells"].rows[1][1] == "4.0000 ± 0.0000"
    files.write(tmp_path, results, figures.frontiers(results))
    assert files.read_results(tmp_path / "results.json") == results
    with open(tmp_path / "results.csv") as file:
        first, second = csv.DictReader(file)
    assert (first["num_seeds"], first["fid_error"]) == ("3", str(1 / 3**0.5))
    assert second["is_error"] == "0.0"


def test_a_mean_over_seeds_has_the_metrics_that_all_seeds_have():
    first, second = made_result(0, 1.0, 8.0), made_result(0, 3.0, 8.0)
    first = first._replace(metrics=first.metrics | {"recall": 0.5})
    assert seeds.mean([first, second]).metrics == {"fid": 2.0, "is": 8.0, "is_std": 0.0}
    assert seeds.mean([second, first]).metrics["fid"] == 2.0


def test_a_cell_written_in_two_ways_is_measured_once(model):
    variants = [SamplingSettings(solver="ddim"), SamplingSettings(solver="ddim", eta=0.0)]
    options = {"weights": [0], "num_steps": [2], "common": SamplingSettings(solver="ancestral")}
    cells = sweep.plan([sweep.Run("a", model)], variants=variants, **options)
    assert [cell.sampling.solver for cell in cells] == ["ancestral", "ddim"]


def test_a_single_seed_has_no_error():
    result = made_result(0, 1.0, 2.0)
    assert seeds.mean([result]) is result and seeds.text(result, "fid", 2) == "1.00"
    assert curves.families([result]).over_p[0].errors("fid") is None


def test_a_solver_has_its_own_number_of_calls(model):
    variants = [SamplingSettings(solver="ddim"), SamplingSettings(solver="unipc_2", num_steps=9)]
    cells = sweep.plan([sweep.Run("a", model)], weights=[0], num_steps=[4, 2], variants=variants)
    found = [(cell.sampling.solver, cell.sampling.num_steps) for cell in cells]
    assert found == [(None, 4), (None, 2), ("ddim", 4), ("ddim", 2), ("unipc_2", 9)]
    first, *others = variants[::-1]
    options = {"weights": [0], "num_steps": [4, 2], "common": first, "variants": others}
    cells = sweep.plan([sweep.Run("a", model)], **options)
    found = [(cell.sampling.solver, cell.sampling.num_steps) for cell in cells]
    assert found == [("unipc_2", 9), ("ddim", 4), ("ddim", 2)]


def test_the_cells_of_a_sweep_are_a_grid_of_the_first_run_and_one_row_of_the_others(model):
    runs = [sweep.Run("a", model), sweep.Run("b", with_config(model))]
    older = sweep.OlderWays(noise_temperatures=[0.9], num_steps=3)
    cells = sweep.plan(runs, weights=[0, 1], other_weights=[1], num_steps=[2, 3], older=older)
    assert [(cell.run.workdir, cell.sampling) for cell in cells] == [
        ("a", SamplingSettings(0.0, 2)),
        ("a", SamplingSettings(1.0, 2)),
        ("a", SamplingSettings(1.0, 3)),
        ("b", SamplingSettings(1.0, 2)),
        ("a", SamplingSettings(0.0, 3, noise_temperature=0.9)),
    ]


def test_only_runs_of_one_network_and_schedule_share_programs(model):
    changed = with_config(model, **{"diffusion.logsnr_max": 10.0})
    models = [model, with_config(model, **{"diffusion.p_uncond": 0.5, "seed": 3}), changed]
    shared = sweep.share_programs([sweep.Run(str(i), model) for i, model in enumerate(models)])
    programs = [run.model._compiled for run in shared]
    assert programs[0] is programs[1] and programs[0] is not programs[2]
    assert [run.model.config for run in shared] == [model.config for model in models]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"weights": [float("nan")]}, "finite"),
        ({"weights": [0], "num_steps": [0]}, "num_steps=0"),
        ({"weights": [0], "older": sweep.OlderWays(noise_temperatures=[-1])}, "noise_temp"),
        ({"weights": [0], "older": sweep.OlderWays(classifier_weights=[1])}, "without a class"),
        (
            {
                "weights": [0],
                "common": SamplingSettings(solver="ddim"),
                "older": sweep.OlderWays(noise_temperatures=[0.9]),
            },
            "draws no noise",
        ),
    ],
)
def test_what_no_cell_could_be_is_refused_before_any_is_measured(model, asked, said):
    with pytest.raises(ValueError, match=said):
        sweep.plan([sweep.Run("a", model)], **asked)


def test_a_network_without_a_null_label_is_swept_at_no_weight_but_0(model):
    without = with_config(model, **{"model.label_input": "without_null", "diffusion.p_uncond": 0.0})
    with pytest.raises(ValueError, match="^a: w=1.0: this network has no null label"):
        sweep.plan([sweep.Run("a", without)], weights=[0, 1])


def test_a_sweep_without_the_metrics_of_its_tables_is_refused(model):
    cells = sweep.plan([sweep.Run("a", model)], weights=[0])
    with pytest.raises(ValueError, match="metrics=fid: .* add 'is'"):
        sweep.check_measurable(cells, ["fid"], num_samples=20)
    with pytest.raises(ValueError, match="num_samples=25"):
        sweep.check_measurable(cells, ["fid", "is"], num_samples=25)


@pytest.mark.long
def test_the_experiment_on_digits_ends_in_a_report_and_started_again_measures_nothing(tmp_path):
    command = ["bash", "launch/digits_experiment.sh", "--num_samples=20", "--strip_w=0,1"]
    command += ["--w=0,0.3,1", "--other_w=0,1", "--num_steps=3,2", "--older_num_steps=2"]
    command += ["--classifier_w=1", "--noise_temperature=0.9", "--score_temperature=", "--seed=5"]
    settings = {
        "WORKDIR": str(tmp_path / "digits"),
        "VENV": sys.prefix,
        "P_UNCOND": "0.1 0.5",
        "TRAIN": "--config.train.num_steps=4",
    }
    times = {}
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=environment() | settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        results = sorted(tmp_path.rglob("result_*.json"))
        # T = 3: three w, two of the other run. T = 2: two w, a classifier, a temperature.
        assert len(results) == 3 + 2 + 2 + 2
        found = {path: path.stat().st_mtime_ns for path in results}
        assert times in ({}, found)
        times = found
    assert "cell 9/9" in done.stdout and "Frechet distance in digits_features" in done.stdout
    assert (tmp_path / "digits" / "sweep" / "report.html").stat().st_size > 50_000
    read = files.read_results(tmp_path / "digits" / "sweep" / "results.json")
    assert sorted({result.swept["p_uncond"] for result in read}) == [0.1, 0.5]
    assert all("precision" in result.metrics for result in read)
