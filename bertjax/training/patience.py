"""When to stop early: how long no evaluation was better than the best one. Saved with each checkpoint."""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """The best figure so far, None before the first, and the evaluations since that one."""

    best: float | None = None
    evaluations: int = 0

    def after(self, figure: float) -> Waiting:
        """Returns what it is after one more evaluation; an equal figure is no better one."""
        return Waiting(figure) if self.best is None or figure > self.best else Waiting(self.best, self.evaluations + 1)

    def is_over(self, patience: int | None) -> bool:
        """Returns whether to stop."""
        return patience is not None and self.evaluations >= patience
