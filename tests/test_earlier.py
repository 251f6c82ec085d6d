"""The optimizer's state has one form, and the forms of version 0.1 are restored in it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfg_jax.storage.checkpoint import Checkpoints
from cfg_jax.training import earlier
from cfg_jax.training.run import train
from cfg_jax.training.step import create_optimizer, create_train_state
from tests.tiny import records, tiny_points

VALUES = dict(learning_rate=0.1, b1=0.9, b2=0.99, weight_decay=0.1)
PARAMS = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}


def optimizer_of_version_0_1(grad_clip, warmup_steps, learning_rate, **adam):
    """The chain of that version, written out."""
    rate = learning_rate
    if warmup_steps:
        rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    chain = optax.adamw(rate, **adam)
    return optax.chain(optax.clip_by_global_norm(grad_clip), chain) if grad_clip else chain


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), PARAMS)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_a_state_of_version_0_1_goes_on_as_it_would_have(tmp_path, grad_clip, warmup_steps):
    settings = {"grad_clip": grad_clip, "warmup_steps": warmup_steps, **VALUES}
    old, new = optimizer_of_version_0_1(**settings), create_optimizer(**settings)
    state = create_train_state(jax.tree.map(jnp.asarray, PARAMS), old)
    for step in range(3):
        _, opt_state = old.update(gradients(step), state.opt_state, state.params)
        state = state.replace(opt_state=opt_state, step=state.step + 1)
    with Checkpoints(tmp_path) as checkpoints:
        ema = state.ema_params
        saved = state.replace(ema_params=None)
        checkpoints.save(3, saved, ema, config={}, meta={}, loss=1.0)
    target = create_train_state(state.params, new).replace(ema_params=None)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_latest(target, ema, forms=earlier.forms(target)).state
    found = earlier.today(found)
    assert jax.tree.structure(found) == jax.tree.structure(target)
    assert len({leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(found.opt_state)}) == len(
        jax.tree.leaves(found.opt_state)
    )
    for step in range(3, 6):
        expected, opt_state = old.update(gradients(step), state.opt_state, state.params)
        updates, new_opt_state = new.update(gradients(step), found.opt_state, found.params)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        state, found = state.replace(opt_state=opt_state), found.replace(opt_state=new_opt_state)


@pytest.mark.parametrize("before", [(0, 0.0), (2, 1.0)])
def test_a_run_resumes_with_clipping_and_warm_up_switched_on_or_off(tmp_path, before):
    after = (2, 1.0) if before == (0, 0.0) else (0, 0.0)
    for num_steps, (warmup_steps, grad_clip) in ((2, before), (4, after)):
        train(
            tiny_points(
                **{
                    "optim.warmup_steps": warmup_steps,
                    "optim.grad_clip": grad_clip,
                    "train.num_steps": num_steps,
                    "train.allow_config_change": True,
                }
            ),
            tmp_path,
        )
    assert [record["step"] for record in records(tmp_path)] == [2, 4]


def test_another_network_is_still_refused(tmp_path):
    train(tiny_points(**{"train.num_steps": 2}), tmp_path)
    wider = {"model.channels": 16}
    for allowed in ({}, {"train.allow_config_change": True}):
        said = r"^config\.model\.channels=16, but the run .* with 8: use that value or another work"
        with pytest.raises(ValueError, match=said):
            train(tiny_points(**wider, **allowed), tmp_path)
