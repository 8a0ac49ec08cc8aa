from __future__ import annotations

import dataclasses

import pytest

from bertjax.config import CheckpointConfig, Config, DataConfig, OptimizerConfig, Phase, TrainConfig
from bertjax.errors import UserError
from bertjax.training.budget import Speed, described, seconds_of, steps_within

CONFIG = Config(
    train=TrainConfig(steps=1000, budget="10m", eval_every=50),
    optimizer=OptimizerConfig(warmup_steps=100),
    checkpoint=CheckpointConfig(save_every=40),
)
SPEED = Speed(start=8.0, steps=(0.5,), evaluations=(3.0,), checkpoint=2.0)
TWO = dataclasses.replace(CONFIG, phases=(Phase(250, batch_size=8, data=DataConfig()),))
SPEED_OF_TWO = SPEED._replace(steps=(0.5, 2.0), evaluations=(3.0, 5.0))


def test_time_is_that_of_starting_steps_evaluations_and_checkpoints() -> None:
    # After steps 50, 100 and, as the last, 110; after 40, 80 and 110.
    assert seconds_of(CONFIG.with_steps(110), SPEED) == 8 + 110 * 0.5 + 3 * 3 + 3 * 2
    # After a last step that is due anyway nothing comes twice.
    assert seconds_of(CONFIG.with_steps(200), SPEED) == 8 + 200 * 0.5 + 4 * 3 + 5 * 2


def test_each_phase_has_its_own_time_and_ends_with_an_evaluation_and_a_checkpoint() -> None:
    c = TWO.with_steps(120)  # 90 and 30
    first = 90 * 0.5 + 2 * 3 + 3 * 2  # evaluated at 50, 90, saved at 40, 80, 90
    assert seconds_of(c, SPEED_OF_TWO) == 8 + first + 30 * 2.0 + 2 * 5 + 1 * 2  # evaluated at 100, 120, saved at 120


@pytest.mark.parametrize(("config", "speed"), [(CONFIG, SPEED), (TWO, SPEED_OF_TWO)], ids=["one phase", "two"])
@pytest.mark.parametrize("seconds", [60, 61, 600])
def test_steps_are_the_most_that_fit(config: Config, speed: Speed, seconds: float) -> None:
    steps = steps_within(config, seconds, speed)
    assert seconds_of(config.with_steps(steps), speed) <= seconds < seconds_of(config.with_steps(steps + 1), speed)


def test_a_budget_too_small_for_a_step_says_how_much_is_missing() -> None:
    with pytest.raises(
        UserError, match=r"train\.budget=10m leaves 3 s, but the shortest run, of steps=1, takes 14 s; give 11 s more"
    ):
        steps_within(CONFIG, 3.0, SPEED)
    with pytest.raises(UserError, match="of steps=4,"):  # one of them is of the second phase
        steps_within(TWO, 3.0, SPEED_OF_TWO)


def test_steps_of_a_profile_are_among_them() -> None:
    c = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, profile_from=20, profile_steps=5))
    with pytest.raises(UserError, match="of steps=24,"):
        steps_within(c, 12.0, SPEED)
    assert steps_within(c, 60.0, SPEED) == steps_within(CONFIG, 60.0, SPEED)


def test_what_was_measured_is_told_for_each_phase() -> None:
    assert described(SPEED_OF_TWO) == (
        "0.5, then 2 s a step, 3, then 5 s an evaluation, 2 s a checkpoint, 8 s to compile"
    )
