"""Checkpoints: what is restored is what was saved, and what does not fit is refused with the reason."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import checkpoint, objective, process, schedule, time_sampler, train
from ddpm_jax.train import Recipe, TrainState

OPTIMIZER = train.adam(1e-3, 10, 1.0)
SCHEDULE = schedule.linear(20)
RECIPE = Recipe(
    schedule=SCHEDULE,
    chain=process.every_step(SCHEDULE),
    denoiser=train.in_training(lambda params, x_t, t, keys: x_t, SCHEDULE, "eps"),
    objective=objective.simple("eps"),
    time_sampler=time_sampler.build("loss_second_moment"),
    optimizer=OPTIMIZER,
    ema_decay=0.9,
    levels=17,
    flip=False,
)


def state_at(step: int, width: int = 3, dtype: str = "float32") -> TrainState:
    params = {"layer": {"kernel": jnp.full((2, width), step + 0.5, dtype), "bias": jnp.arange(width, dtype=dtype)}}
    state = train.init(jax.random.key(step), params, RECIPE)._replace(step=jnp.int32(step))
    _, moments = OPTIMIZER.update(params, state.opt_state, params)  # none of them is zero
    history = time_sampler.remember(state.history, jnp.arange(30) % 19, step + jnp.arange(30.0))
    return state._replace(opt_state=moments, history=history)


def assert_equal(a: TrainState, b: TrainState) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    np.testing.assert_array_equal(jax.random.key_data(a.key), jax.random.key_data(b.key))
    for x, y in zip(jax.tree.leaves(a._replace(key=0)), jax.tree.leaves(b._replace(key=0)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_state_is_restored_bit_for_bit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_at(7), {"config": {"seed": 3}})
    assert_equal(checkpoint.restore(tmp_path, jax.eval_shape(lambda: state_at(0))), state_at(7))
    assert checkpoint.describe(tmp_path)["config"] == {"seed": 3}


def test_the_history_of_the_time_sampler_is_restored_with_its_places(tmp_path: Path) -> None:
    """Eleven times drawn twice, eight once, one never; the next loss is written where it would have been."""
    stored = state_at(7)
    checkpoint.save(tmp_path, stored, {})
    restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: state_at(0)))
    assert np.asarray(restored.history.counts).tolist() == [2] * 11 + [1] * 8 + [0]
    assert float(restored.history.losses[3, 1]) == 7 + 22
    more = (time_sampler.remember(state.history, jnp.array([3]), jnp.array([1.5])) for state in (restored, stored))
    for a, b in zip(*more, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_chain_of_another_length_is_another_layout(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_at(1), {})
    other = state_at(0)._replace(history=time_sampler.empty(19))
    with pytest.raises(ValueError, match=r"history\.counts is \[\[20\]"):
        checkpoint.restore(tmp_path, other)


def test_the_newest_is_restored_and_old_ones_go(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, state_at(step), {})
    assert checkpoint.latest(tmp_path) == 3
    assert_equal(checkpoint.restore(tmp_path, state_at(0)), state_at(3))
    assert_equal(checkpoint.restore(tmp_path, state_at(0), step=2), state_at(2))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (state_at(0, width=4), r"ema\.layer\.bias is \[\[3\], .float32.\] there"),
        (state_at(0, dtype="bfloat16"), "float32"),
        (state_at(0)._replace(params={"other": jnp.zeros(2)}), r"params\.layer\.bias is .* there and absent here"),
    ],
    ids=["shape", "dtype", "name"],
)
def test_another_layout_is_refused(tmp_path: Path, template: TrainState, reason: str) -> None:
    checkpoint.save(tmp_path, state_at(1), {})
    with pytest.raises(ValueError, match=reason):
        checkpoint.restore(tmp_path, template)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint in .*: train first"):
        checkpoint.restore(tmp_path, state_at(0))
