"""Jobs for the processes of `test_processes`: `python -m tests.process_driver --job=JSON`.

The JSON is {"do": name of a function here, its arguments}. Networks are the fast-compiling ones of
`tests.tiny`. Process k writes its own results to FOLDER_k.npz, beside the job's folder.
"""

import contextlib
import functools
import json
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from cfg_jax.runtime import processes
from launch import program

_JOB = flags.DEFINE_string("job", None, "What to do.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; for the compilation cache.")
_GRACE = flags.DEFINE_float("grace_seconds", 600.0, "launch.program.GRACE_SECONDS.")
_HEARTBEAT = flags.DEFINE_integer("heartbeat_seconds", 100, "As processes.start takes it.")
_SHUTDOWN = flags.DEFINE_integer("shutdown_seconds", 300, "As jax.distributed.initialize takes it.")


def main(argv):
    del argv
    from cfg_jax.storage import lock
    from tests import tiny

    lock.LATE_SECONDS = 0.0  # a disk of this machine shows a file at once
    job = json.loads(_JOB.value)
    do = globals()[job.pop("do")]
    with contextlib.nullcontext() if do is sample_cases else tiny.pixel_networks():
        return do(**job)


def start(*arguments, own_start=processes.start, **keywords):
    """`processes.start` with the timeouts of the parsed flags."""
    program.GRACE_SECONDS = _GRACE.value
    jax.distributed.initialize = functools.partial(
        jax.distributed.initialize, shutdown_timeout_seconds=_SHUTDOWN.value
    )
    return own_start(*arguments, **keywords, heartbeat_seconds=_HEARTBEAT.value)


def nothing():
    """Ends immediately."""


def compile_something():
    """Prints whether the compiled program came from the cache."""
    events = []
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
    jax.jit(lambda x: jax.numpy.sin(x) * 3)(np.ones(3, np.float32))
    print("/jax/compilation_cache/cache_hits" in events)


def hold_lock(path):
    """Holds a lock until it is killed."""
    from cfg_jax.storage import lock

    release = lock.hold(path)
    print("held", flush=True)
    time.sleep(3600)
    release()


def sleep():
    """Sleeps until killed."""
    print("here", flush=True)
    time.sleep(3600)


def work_alone(until, others_at_end):
    """Process 0 works until the file `until` exists; the others create a file and exit with 75."""
    if processes.is_first():
        while not Path(until).exists():
            time.sleep(0.01)
    else:
        Path(others_at_end).touch()
    return 75


def train(folder, **overrides):
    """Trains; writes the final parameters of every device and the examples of this process."""
    from cfg_jax.runtime import devices
    from cfg_jax.training.run import train
    from tests import tiny

    batches, last = [], {}
    mapped = devices.pmap_step

    def watched(step, **options):
        step = mapped(step, **options)

        def call(state, batch):
            batches.append(jax.device_get(batch))
            state, metrics = step(state, batch)
            last["state"] = state
            return state, metrics

        return call

    devices.pmap_step = watched
    try:
        train(tiny.tiny_config(**overrides), folder)
    finally:
        devices.pmap_step = mapped
    leaves = jax.tree.leaves(last["state"])
    on_devices = {
        f"leaf_{i}": np.stack([np.asarray(shard.data) for shard in leaf.addressable_shards])
        for i, leaf in enumerate(leaves)
    }
    _save(folder, **on_devices, **{k: np.stack([b[k] for b in batches]) for k in batches[0]})


def sample(workdir, folder):
    """Draws 16 samples, divided among the processes."""
    import cfg_jax
    from cfg_jax.core import keys as keys_lib

    model = cfg_jax.load(workdir)
    index = processes.share(np.arange(16))
    keys = keys_lib.indexed(jax.random.key(3), index)
    own = model.sample_x(keys, labels=index % 10, w=1.5, num_steps=5)
    assert model.first_sample_seconds > 0
    _save(folder, own=own, x=processes.gather(own, 16))


def load_each_its_own(workdir_0, workdir_1, folder):
    """Loads workdir_k in process k and saves the error."""
    import cfg_jax

    said = "nothing"
    try:
        cfg_jax.load([workdir_0, workdir_1][jax.process_index()])
    except ValueError as error:
        said = str(error)
    _save(folder, said=said)


def sample_cases(workdir, folder):
    """The samples in `expected.npz` of `test_old_run`, drawn by the run's own network."""
    import cfg_jax

    cases = {
        "ancestral": {"w": 1.5},
        "ddim": {"w": np.linspace(-1, 3, 10), "solver": "ddim"},
        "per_step": {"w": np.linspace(0, 2, 4)[:, None], "logvar_interp": 0.3},
        "tempered": {"clip_x": False, "noise_temperature": 0.5, "score_temperature": 0.9},
    }
    model = cfg_jax.load(workdir)
    request = {"labels": np.arange(10), "num_steps": 4}
    key = jax.random.key(0)
    _save(folder, **{case: model.sample_x(key, **request, **own) for case, own in cases.items()})


def sample_to_files(workdir, folder):
    """Draws 70 samples in shards of 20, 18 at a time."""
    import cfg_jax
    from cfg_jax.evaluation import Samples, SamplingSettings
    from cfg_jax.sampling import shards

    settings = SamplingSettings(w=1.5, num_steps=5)
    samples = Samples(cfg_jax.load(workdir), 70, sampling=settings)
    shards.sample_to_files(samples, Path(folder), batch_size=18, shard_size=20)


def evaluate(workdir, folder, data_dir):
    """Evaluates a cell with its reference, and the likelihood bound."""
    import cfg_jax
    from cfg_jax import data, evaluation
    from cfg_jax.evaluation import accumulate
    from cfg_jax.evaluation.likelihood import likelihood

    accumulate.SAVE_SECONDS = 0.0  # save after each batch
    model = cfg_jax.load(workdir)
    source = data.open_source("digits", "test[:60]", data_dir=data_dir)
    network = _network()
    reference = evaluation.data_reference(network, source, folder, with_rows=True, batch_size=16)
    settings = evaluation.SamplingSettings(w=1.0, num_steps=5)
    result = evaluation.evaluate(
        evaluation.Samples(model, 40, sampling=settings),
        network,
        reference,
        folder=folder,
        metrics=("fid", "is", "precision_recall"),
        batch_size=16,
        save_images=True,
    )
    bound = likelihood(model, source, num_steps=4, batch_size=8, num_examples=20)
    _save(folder, numbers=json.dumps([result.metrics, bound._asdict()]))


def _network():
    """Feature network that embeds each image independently, on the devices."""
    import jax.numpy as jnp

    from cfg_jax.evaluation.networks import FeatureNetwork, Outputs
    from cfg_jax.runtime import devices
    from tests.plain_network import LOGITS, POOL

    matrices = [np.asarray(matrix, np.float32) for matrix in (POOL, LOGITS)]

    def look(matrices, images):
        pixels = images.reshape(len(images), 64).astype(jnp.float32)
        return Outputs(*(pixels @ matrix for matrix in matrices), None)

    spread = devices.pmap_batch(look)
    matrices = devices.replicate(matrices)
    return FeatureNetwork(
        "pixels",
        "sha",
        "none",
        lambda images: jax.tree.map(np.asarray, spread(matrices, images)),
    )


def _save(folder, **arrays):
    np.savez(f"{folder}_{jax.process_index()}.npz", **arrays)


if __name__ == "__main__":
    processes.start = start
    program.run(main)
