"""What each process of `test_processes` does: `python -m tests.process_driver --jobs=JSON`.

The JSON is a list of {"do": name of a function here, its arguments}. Networks are `tests.tiny`'s of
pixels, which compile at once; what a process sees of its own goes to files with its number.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from launch.program import run

_JOBS = flags.DEFINE_string("jobs", None, "What to do.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run; only the compilation cache cares.")


def main(argv):
    del argv
    from tests import tiny

    with tiny.pixel_networks():
        for job in json.loads(_JOBS.value):
            globals()[job.pop("do")](**job)


def train(workdir, seen, **overrides):
    """A run; what every device ended with, and which examples this process was given."""
    import jax

    from cfg_jax.runtime import devices
    from cfg_jax.training.run import train
    from tests import tiny

    batches, last = [], {}
    mapped = devices.pmap_step

    def watched(step):
        step = mapped(step)

        def call(state, batch):
            batches.append(jax.device_get(batch))
            state, metrics = step(state, batch)
            last["state"] = state
            return state, metrics

        return call

    devices.pmap_step = watched
    try:
        train(tiny.tiny_config(**overrides), workdir)
    finally:
        devices.pmap_step = mapped
    leaves = jax.tree.leaves(last["state"])
    on_devices = {
        f"leaf_{i}": np.stack([np.asarray(shard.data) for shard in leaf.addressable_shards])
        for i, leaf in enumerate(leaves)
    }
    _save(seen, **on_devices, **{k: np.stack([b[k] for b in batches]) for k in batches[0]})


def sample(workdir, seen):
    """16 samples, of which each process draws its share."""
    import jax

    import cfg_jax
    from cfg_jax.core import keys as keys_lib
    from cfg_jax.runtime import processes

    model = cfg_jax.load(workdir)
    index = processes.share(np.arange(16))
    keys = keys_lib.indexed(jax.random.key(3), index)
    own = model.sample_x(keys, labels=index % 10, w=1.5, num_steps=5)
    assert model.first_sample_seconds > 0
    _save(seen, own=own, x=processes.gather(own, 16))


def load_each_its_own(workdirs, seen):
    """What is said where process k reads workdirs[k]."""
    import jax

    import cfg_jax

    said = "nothing"
    try:
        cfg_jax.load(workdirs[jax.process_index()])
    except ValueError as error:
        said = str(error)
    _save(seen, said=said)


def sample_to_files(workdir, folder):
    """70 samples in shards of 20, 18 at a time."""
    import cfg_jax
    from cfg_jax import evaluation
    from cfg_jax.sampling import shards

    shards.sample_to_files(
        cfg_jax.load(workdir),
        Path(folder),
        num_samples=70,
        sampling=evaluation.SamplingSettings(w=1.5, num_steps=5),
        batch_size=18,
        shard_size=20,
    )


def evaluate(workdir, folder, seen, data_dir):
    """A cell and its reference, and the bound on the likelihood."""
    import cfg_jax
    from cfg_jax import data, evaluation
    from cfg_jax.evaluation import accumulate
    from cfg_jax.evaluation.likelihood import likelihood

    accumulate.SAVE_SECONDS = 0.0  # after each batch, however long it takes
    model = cfg_jax.load(workdir)
    source = data.open_source("digits", "test[:60]", data_dir=data_dir)
    network = _network()
    reference = evaluation.data_reference(network, source, folder, with_rows=True, batch_size=16)
    result = evaluation.evaluate(
        model,
        network,
        reference,
        folder=folder,
        metrics=("fid", "is", "precision_recall"),
        num_samples=40,
        sampling=evaluation.SamplingSettings(w=1.0, num_steps=5),
        batch_size=16,
        save_images=True,
    )
    bound = likelihood(model, source, num_steps=4, batch_size=8, num_examples=20)
    _save(seen, numbers=json.dumps([result.metrics, bound._asdict()]))


def _network():
    """Looks at each row for itself, on the devices."""
    import jax
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


def _save(seen, **arrays):
    import jax

    np.savez(Path(f"{seen}_{jax.process_index()}.npz"), **arrays)


if __name__ == "__main__":
    run(main)
