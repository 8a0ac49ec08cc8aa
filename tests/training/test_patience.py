from bertjax.training.patience import Waiting


def test_it_counts_the_evaluations_since_the_best() -> None:
    waiting, seen = Waiting(), []
    for figure in (0.5, 0.4, 0.6, 0.6, 0.1):
        waiting = waiting.after(figure)
        seen.append(waiting.evaluations)
    assert seen == [0, 1, 0, 1, 2]
    assert waiting == Waiting(0.6, 2)
    assert [waiting.is_over(patience) for patience in (None, 1, 2, 3)] == [False, True, True, False]


def test_it_survives_a_checkpoint() -> None:
    assert Waiting(**Waiting(0.25, 3)._asdict()) == Waiting(0.25, 3)
