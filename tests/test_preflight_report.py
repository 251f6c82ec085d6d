"""Preflight verdict, remedies, files and text, from handwritten findings."""

import json
from pathlib import Path

import jax
import pytest

from cfg_jax.config.validate import to_json
from cfg_jax.preflight import cache, check, remedies, report
from cfg_jax.preflight.topologies import topology
from cfg_jax.preflight.verdict import Compiled, Memory
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[1]
GIB = 2**30


def test_memory_is_what_is_held_at_the_same_time():
    assert Memory(10, 8, 7, 5, 1).total == 10 + 1 + 5 + 1  # one result is not donated


def needing(size, gradient_bytes=0):
    memory = Memory(0, 0, 0, int(size), 0)
    return Compiled(seconds=1.0, gradient_bytes=gradient_bytes, num_donated=0, memory=memory)


def test_a_program_fits_up_to_the_last_byte():
    assert needing(100).fits(100) and not needing(101).fits(100)
    lacking = Compiled(1.0, 0, 0, needed_bytes=90, limit_bytes=80)
    assert not lacking.fits(100)  # the compiler's refusal overrides the table


def search(config, program, memory_of, usable):
    """(remedies found, changes tried) if memory_of(config) is the memory of a config."""
    tried = []

    def attempt(changes):
        tried.append(changes)
        return needing(memory_of(check.changed(config, changes)), 10)

    found = remedies.find(
        config,
        needing(memory_of(config), 10),
        num_devices=4,
        usable_bytes=usable,
        program=program,
        attempt=attempt,
    )
    return [remedy.changes for remedy in found], tried


def test_the_mildest_change_of_each_kind_that_fits_is_found():
    config = tiny_config(**{"train.batch_size": 64})

    def memory(config):  # 50 for the state, plus 20 per example, or 8 with remat
        at_a_time = config.train.batch_size / 4 / config.train.num_microbatches
        return 50 + at_a_time * (8 if config.model.remat else 20)

    assert memory(config) == 50 + 16 * 20
    found, tried = search(config, "train", memory, usable=190)
    assert found == [{"model.remat": True}, {"train.num_microbatches": 4}, {"train.batch_size": 16}]
    # Halving leaves at most 210, which is close enough to compile; distant options are not.
    assert {"train.num_microbatches": 2} in tried
    found, _ = search(config, "train", memory, usable=75)
    assert found == [{"train.num_microbatches": 16}, {"train.batch_size": 4}]
    both = {"model.remat": True, "train.num_microbatches": 16}
    assert search(config, "train", memory, usable=60)[0] == [both]


def test_a_state_that_is_too_large_for_a_device_is_divided():
    def memory(config):  # parameters and gradients of 10, average and moments of 30 on 4 devices
        return 200 + 20 + (30 / 4 if config.train.shard_state else 30)

    found, _ = search(tiny_config(), "train", memory, usable=230)
    assert found == [{"train.shard_state": True}]
    divided = tiny_config(**{"train.shard_state": True})
    assert {"train.shard_state": True} not in search(divided, "train", memory, usable=200)[1]


def test_a_device_with_three_examples_can_compute_them_one_by_one():
    config = tiny_config(**{"train.batch_size": 12})
    found, _ = search(config, "train", lambda c: 50 + 90 / c.train.num_microbatches, usable=85)
    assert {"train.num_microbatches": 3} in found


def test_a_sampler_is_only_given_fewer_images():
    config = tiny_config(**{"train.batch_size": 64})
    found, _ = search(config, "sample", lambda c: 20 * c.train.batch_size / 4, usable=180)
    assert found == [{"train.batch_size": 32}]


def test_nothing_is_promised_where_the_state_alone_is_too_large():
    found, tried = search(tiny_config(), "train", lambda config: 1000, usable=49)
    assert found == []
    assert tried == [{"model.remat": True}]


def test_gradients_summed_twice_fail_their_check():
    def summed(size):
        moved = {"all-reduce": {"count": 2, "bytes": size}}
        known = dict(seconds=1, gradient_bytes=10**6, num_donated=0, memory=Memory(0, 0, 0, 0, 0))
        return Compiled(**known, collectives=moved).checks(8)["gradients summed once"]

    def scattered(size):
        moved = {kind: {"count": 1, "bytes": size} for kind in ("all-gather", "reduce-scatter")}
        known = dict(seconds=1, gradient_bytes=10**6, num_donated=0, memory=Memory(0, 0, 0, 0, 0))
        checks = Compiled(**known, scattered_bytes=10**6, collectives=moved).checks(8)
        return checks["gradients summed once"], checks["parameters gathered once"]

    assert scattered(11 * 10**5) == (True, True)
    assert scattered(2 * 10**6) == scattered(10**6 // 2) == (False, False)
    assert summed(10**6 + 200) and not summed(2 * 10**6) and not summed(10**6 // 2)


def test_a_copy_of_a_config_can_be_changed_and_leaves_it_alone():
    config = tiny_config()
    before = to_json(config)
    copy = check.changed(config, {"model.remat": True, "train.batch_size": 48})
    assert copy.model.remat and copy.train.batch_size == 48
    assert to_json(config) == before


def digest(config=None, where="v5e:2x2", program="train", fingerprint="0", code=True):
    config = config or tiny_config()
    return cache.key("tiny", config, topology(where), program, fingerprint, code=code)["digest"]


def test_another_program_pod_version_flag_or_code_is_compiled_again(monkeypatch):
    found = {digest(), digest(where="v4:2x2x1"), digest(program="sample"), digest(code=False)}
    found |= {digest(fingerprint="1")}
    for package in ("jax", "jaxlib", "libtpu"):
        versions = dict.fromkeys((*cache.manifest.versions(), "jaxlib", "libtpu"), "1")
        with monkeypatch.context() as patch:
            patch.setattr(cache.manifest, "version", (versions | {package: "0"}).get)
            found |= {digest()}
    for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, f"--xla_tpu_{variable}=1")
            found |= {digest()}
    assert len(found) == 10


def test_what_the_tpu_compiler_ignores_is_not_in_the_digest(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    before = digest()
    assert digest(config=tiny_config(seed=5)) == before
    version = cache.manifest.version
    compilers = ("jax", "jaxlib", "libtpu")
    monkeypatch.setattr(
        cache.manifest, "version", lambda name: version(name) if name in compilers else "0"
    )
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_cpu_some=")
    assert digest() == before


FULL = Compiled(
    seconds=12.5,
    gradient_bytes=100,
    num_donated=3,
    memory=Memory(10 * GIB, GIB, GIB, 2 * GIB, 1000),
    flops=3 * 10**12,
    estimated_cycles=5 * 10**7,
    collectives={"all-reduce": {"count": 2, "bytes": 100}},
    dtypes={"f32": 7},
    donated_arguments=3,
)


def result_of(compiled=FULL, name="tiny", config=None, where="v5e:2x2", program="train", code=True):
    config, place = config or tiny_config(), topology(where)
    known = cache.key(name, config, place, program, f"{to_json(config)}{program}", code=code)
    return cache.Result(**known, compiled=compiled)


def test_half_a_file_is_not_taken_for_a_result(tmp_path):
    result = result_of()
    known = {"digest": result.digest, "name": "again"}
    path = cache.write(tmp_path / "new", result)
    assert cache.find(tmp_path / "new", known) == (path, result_of(name="again"))
    path.write_text(path.read_text()[:200])
    assert cache.find(tmp_path / "new", known) is None
    assert cache.write(tmp_path / "new", result) == path and cache.read(path) == result


def test_a_result_without_code_is_kept_beside_the_one_with_code(tmp_path):
    planned = Compiled(1.0, 0, 0, memory=Memory(GIB, 0, 0, GIB, None))
    without = result_of(planned, code=False)
    assert cache.write(tmp_path, result_of()) != cache.write(tmp_path, without)
    found = cache.find(tmp_path, {"digest": without.digest, "name": "tiny"})
    assert found[1].compiled == planned
    lines = report.describe(without)
    assert (
        "unknown code = 2.00 GiB per device" in lines
        and "none, since it needs --code=True" in lines
    )
    row = report.table([without]).splitlines()[-1]
    assert row.endswith("| unknown | 2.00 GiB | 15.75 GiB | 0 | - | - | yes |")


def test_a_file_has_the_findings_the_versions_and_what_follows(tmp_path):
    values = json.loads(cache.write(tmp_path, result_of()).read_text())
    assert values["versions"]["jax"] == jax.__version__ and "libtpu" in values["versions"]
    assert values["config"]["model"]["channels"] == 8
    assert values["follows"]["fits"] and values["follows"]["needed_bytes"] == 12 * GIB + 1000
    fraction = values["follows"]["estimated_share_of_peak"]
    assert fraction == pytest.approx(3e12 / 5e7 / 131072)


def test_the_recorded_results_are_read_and_named_by_their_digests():
    paths = list((ROOT / "benchmarks/preflight").glob("*.json"))
    assert paths
    for path in paths:
        assert cache.read(path).file_name == path.name


def test_a_name_with_a_path_in_it_is_kept_like_any_other(tmp_path):
    name = "tiny_data_dir=/mnt/my data_" + "x" * 300
    path = cache.write(tmp_path, result_of(name=name))
    assert path.parent == tmp_path and path.name.startswith("tiny_data_dir=-mnt-my-data_xx")
    assert cache.find(tmp_path, {"digest": result_of().digest, "name": name})[1].name == name


def test_a_sampler_is_reported_in_calls_and_kernels_without_an_estimate_are_counted():
    found = dict(seconds=1.0, gradient_bytes=0, num_donated=0, memory=Memory(GIB, 0, 0, GIB, 0))
    lines = report.describe(result_of(Compiled(**found, flops=64 * 10**12, calls=256, kernels=7)))
    assert "256 network calls of 0.25 TFLOP on average per device" in lines
    assert "7 custom calls are not in the FLOPs and the estimate" in lines
    assert "custom calls" not in report.describe(result_of(Compiled(**found)))


def test_one_pod_is_reported_in_full_and_speed_is_called_an_estimate():
    lines = report.describe(result_of())
    assert "4 devices, 4 examples on each, 16 in total" in lines
    assert "10.00 GiB arguments + 1.00 GiB results - 1.00 GiB donated + 2.00 GiB temp" in lines
    assert "the compiler's estimate, not a measurement: 50.0 M cycles" in lines
    assert "46% of the chip's peak" in lines
    assert "2 all-reduce of" in lines and "state donated: yes" in lines
    assert "nothing else communicated: yes" in lines
    assert "FITS: 12.00 GiB of the 15.75 GiB" in lines


def test_a_compiler_that_states_no_cycles_is_said_to():
    silent = Compiled(1.0, 0, 0, memory=Memory(GIB, 0, 0, GIB, 5))
    assert "none, since this compiler states no cycles" in report.describe(result_of(silent))


def test_the_least_time_of_a_training_follows_from_the_peak_of_a_device():
    config = tiny_config(**{"train.num_steps": 120_000, "train.batch_size": 32})
    # Of a v5e, 197 TFLOP per second: 3e12 x 120,000 / 197e12 = 1827.4 s.
    lines = report.describe(result_of(config=config))
    assert "time, computed: at least 0.508 h for 120,000 steps at the chip's peak" in lines
    # A device of v3 is a core, with half of 123 TFLOP per second: 5853.7 s.
    lines = report.describe(result_of(config=config, where="v3:2x2"))
    assert "at least 1.63 h for 120,000 steps" in lines
    assert "at least" not in report.describe(result_of(config=config, program="sample"))


def test_a_program_without_a_remedy_needs_a_larger_chip():
    assert "choose a larger chip" in report.describe_remedies([], result_of(needing(100 * GIB)))


def preflight(folder, *topologies, **options):
    """(whether all programs fit, logged lines) of `check.run`."""
    lines = []
    names = topologies or ("v5e:2x2",)
    fits = check.run(tiny_config(), "tiny", names, folder=folder, log=lines.append, **options)
    return fits, "\n".join(lines)


@pytest.fixture
def measured(monkeypatch):
    """Replaces `check.measure`; measured(compiled_of) sets the result for each config."""

    def stand_in(compiled_of):
        asked = []

        def measure(name, config, where, program, **options):
            asked.append(config.train.batch_size)
            return result_of(compiled_of(config), name, config, where.name, program)

        monkeypatch.setattr(check, "measure", measure)
        monkeypatch.setattr(check, "check_compiler", lambda: None)
        return asked

    return stand_in


def test_several_pods_and_batches_make_a_table(measured, tmp_path):
    asked = measured(lambda config: FULL)
    options = {"batch_sizes": [2, 8], "programs": ["train"]}
    fits, lines = preflight(tmp_path, "v5e:2x2", "v4:2x2x1", **options)
    rows = [line for line in lines.splitlines() if line.startswith("| tiny")]
    assert fits and len(rows) == 4
    assert [row.split(" | ")[2:5] for row in rows] == [
        ["v5e:2x2", "4", "2"],
        ["v5e:2x2", "4", "8"],
        ["v4:2x2x1", "4", "2"],
        ["v4:2x2x1", "4", "8"],
    ]
    assert asked == [8, 32, 8, 32]
    assert "estimated fraction of peak" in lines


def test_a_program_that_does_not_fit_is_reported_with_its_remedies(measured, tmp_path):
    def compiled_of(config):
        needed = config.train.batch_size * GIB
        return Compiled(1.0, 0, 0, needed_bytes=needed) if needed > 15 * GIB else needing(needed)

    measured(compiled_of)
    fits, lines = preflight(tmp_path, programs=["sample"])
    assert not fits
    assert "DOES NOT FIT: at least 16.00 GiB of the 15.75 GiB" in lines
    assert "fits with 2 images on each device: 8.00 GiB" in lines
    fits, lines = preflight(tmp_path, programs=["sample"], search=False)
    assert not fits and "fits with" not in lines
    _, lines = preflight(tmp_path, programs=["train"])
    assert "fits with one of\n  --config.train.batch_size=8: 8.00 GiB" in lines
