"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def directory() -> Path:
    """Returns $BERTJAX_CACHE, or ~/.cache/bertjax."""
    return Path(os.environ.get("BERTJAX_CACHE") or Path.home() / ".cache" / "bertjax")
