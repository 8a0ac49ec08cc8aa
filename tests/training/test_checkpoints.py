"""Checkpoints: bit for bit, damage is found and the one before is used, another model is an error."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax import sharding
from bertjax.config import CheckpointConfig, MeshConfig, ModelConfig, OptimizerConfig
from bertjax.errors import UserError
from bertjax.model.pretraining import BertForPretraining
from bertjax.storage import Folder
from bertjax.training import checkpoints, optimizers, step

TX = optimizers.make_optimizer(OptimizerConfig(), lambda _: 1e-3)
MeshOf = Callable[[int, int, int], jax.sharding.Mesh]


def maker(c: ModelConfig) -> Callable[[nnx.Rngs], BertForPretraining]:
    return lambda rngs: BertForPretraining(c, rngs=rngs)


def mesh_of(data: int, fsdp: int, model: int) -> jax.sharding.Mesh:
    return sharding.make_mesh(MeshConfig(data, fsdp, model), jax.devices()[: data * fsdp * model])


def save(workdir: Path, c: ModelConfig, steps: tuple[int, ...], keep: int = 3) -> list[np.ndarray]:
    """Saves a state of its own for each step; returns the leaves of the last."""
    with jax.set_mesh(mesh_of(4, 2, 1)), checkpoints.Checkpoints(Folder(workdir), CheckpointConfig(keep=keep)) as out:
        first = first_state(c)
        for number in steps:
            params = jax.tree.map(lambda x, n=number: x + n, first.params)
            state = step.TrainState(jnp.int32(number), params, first.opt_state)
            out.save(state, number, {"seconds": 1.5, "tokens": number})
        return [np.asarray(x) for x in jax.tree.leaves(state)]


@functools.cache
def first_state(c: ModelConfig) -> step.TrainState:
    return step.first_state(step.fresh_params(maker(c), 0), TX)


def restore(
    workdir: Path, c: ModelConfig, sizes: tuple[int, int, int] = (4, 2, 1)
) -> tuple[step.TrainState, dict[str, float]] | None:
    mesh = mesh_of(*sizes)
    with jax.set_mesh(mesh), checkpoints.Checkpoints(Folder(workdir), CheckpointConfig()) as saved:
        return saved.restore(step.abstract_state(maker(c), TX), mesh)


@pytest.mark.parametrize("sizes", [(4, 2, 1), (1, 1, 1), (2, 2, 2)])
def test_what_was_saved_comes_back_bit_for_bit_on_any_mesh(
    tmp_path: Path, model_config: ModelConfig, sizes: tuple[int, int, int]
) -> None:
    saved = save(tmp_path, model_config, (5,))
    restored = restore(tmp_path, model_config, sizes)
    assert restored is not None
    state, counters = restored
    assert counters == {"seconds": 1.5, "tokens": 5}
    for ours, theirs in zip(jax.tree.leaves(state), saved, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs)
    assert jax.tree.leaves(state.params)[0].sharding.mesh == mesh_of(*sizes)


def test_without_a_checkpoint_there_is_none(tmp_path: Path, model_config: ModelConfig) -> None:
    assert restore(tmp_path, model_config) is None


def test_only_the_newest_are_kept(tmp_path: Path, model_config: ModelConfig) -> None:
    save(tmp_path, model_config, (1, 2, 3, 4), keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["3", "4"]


def flip_a_bit(checkpoint: Path) -> None:
    data = max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def truncate(checkpoint: Path) -> None:
    for data in (p for p in checkpoint.rglob("*") if p.is_file() and "ocdbt" not in p.name and p.stat().st_size > 1000):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def lose_a_part(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "rest")


def lose_the_record(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "record")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, lose_a_part, lose_the_record])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(
    tmp_path: Path, model_config: ModelConfig, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, model_config, (1, 2))
    damage(tmp_path / "checkpoints" / "2")
    restored = restore(tmp_path, model_config)
    assert restored is not None
    assert int(restored[0].step) == 1
    assert "the checkpoint of step 2 is damaged" in capfd.readouterr().err
    assert (tmp_path / "damaged" / "2").is_dir()
    save(tmp_path, model_config, (2,))  # its number is free again
    again = restore(tmp_path, model_config)
    assert again is not None
    assert int(again[0].step) == 2


def test_when_all_are_damaged_it_says_so(tmp_path: Path, model_config: ModelConfig) -> None:
    save(tmp_path, model_config, (1,))
    flip_a_bit(tmp_path / "checkpoints" / "1")
    with pytest.raises(UserError, match=r"every checkpoint in .* was damaged"):
        restore(tmp_path, model_config)


def test_another_model_is_an_error_and_no_damage(tmp_path: Path, model_config: ModelConfig) -> None:
    save(tmp_path, model_config, (1, 2))
    other = ModelConfig(**{**vars(model_config), "mlp_width": 96})
    with pytest.raises(UserError, match=r"another model: .*float32\[2, 32, 64\], expected float32\[2, 32, 96\]"):
        restore(tmp_path, other)
    assert not (tmp_path / "damaged").exists()


def test_load_params_reads_the_weights_alone(tmp_path: Path, model_config: ModelConfig) -> None:
    saved = save(tmp_path, model_config, (1, 2))[1:]  # the step comes first
    with jax.set_mesh(mesh_of(1, 1, 1)):
        abstract = step.abstract_state(maker(model_config), TX).params
        loaded = checkpoints.load_params(tmp_path, abstract)
    for ours, theirs in zip(jax.tree.leaves(loaded), saved, strict=False):
        np.testing.assert_array_equal(np.asarray(ours), theirs)
    with jax.set_mesh(mesh_of(1, 1, 1)), pytest.raises(UserError, match="no checkpoint of step 7"):
        checkpoints.load_params(tmp_path, abstract, step=7)


@pytest.mark.parametrize("keep", [1, 5])
def test_of_equally_good_ones_the_earliest_is_kept(tmp_path: Path, model_config: ModelConfig, keep: int) -> None:
    with (
        jax.set_mesh(mesh_of(4, 2, 1)),
        checkpoints.Checkpoints(Folder(tmp_path), CheckpointConfig(keep=keep), best="accuracy") as out,
    ):
        for number, accuracy in enumerate((0.9, 0.9, 0.8), start=1):
            out.save(first_state(model_config), number, {}, figures={"accuracy": accuracy})
    assert checkpoints.best_step(tmp_path, "accuracy") == 1


def test_damage_in_another_process_is_damage_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        raise TimeoutError("at a barrier")  # which the other process does not reach

    with pytest.raises(TimeoutError):
        checkpoints._read_by_all(wait)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(checkpoints.hosts, "anywhere", lambda here: here)
    with pytest.raises(checkpoints.Damaged, match="at a barrier"):
        checkpoints._read_by_all(wait)


@pytest.mark.parametrize("error", [PermissionError("no"), ValueError("UNAVAILABLE: the store is away")])
def test_what_cannot_be_read_just_now_is_not_damaged(
    tmp_path: Path, model_config: ModelConfig, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, model_config, (1,))

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoints.ocp, "load_checkpointables", refuse)
    with pytest.raises(OSError, match=str(error)):
        restore(tmp_path, model_config)
    assert not (tmp_path / "damaged").exists()
