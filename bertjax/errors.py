"""The one exception for a user's mistakes, and how a command ends on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake that its message explains, with the value that was wrong and the remedy.

    Everything checked at the border (config, files, checkpoints, tasks) raises it; any other exception is a bug of ours
    and keeps its traceback.
    """


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends the process with exit code 1 and one clear message on a mistake of the user's or of the file system's.

    After SIGINT it ends with 130, as shells expect, and says no more.
    """
    try:
        yield
    except (UserError, OSError) as error:  # OSError: a full disk, a missing file, no permission
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
