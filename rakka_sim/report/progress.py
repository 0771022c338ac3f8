"""How far a run has come, on standard error while it lasts; nothing of what it came to may be here."""

from __future__ import annotations

import os
import sys
from typing import Any


def _has_no_size() -> bool:
    """Whether standard error is a terminal of 0 columns, as of some containers: tqdm would draw nothing there."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns == 0


class ProgressBar:
    """A progress bar on standard error, or none: where nobody watches, or where it was not wanted."""

    def __init__(self, total: int | None, wanted: bool | None) -> None:
        if wanted is None:
            wanted = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._bar: Any = None
        if wanted:
            from tqdm.auto import tqdm

            size = {"ncols": 80, "nrows": 24} if _has_no_size() else {"dynamic_ncols": True}
            self._bar = tqdm(total=total, unit="req", **size)

    def __enter__(self) -> ProgressBar:
        return self

    def show(self, ended: int) -> None:
        if self._bar is not None:
            self._bar.update(ended - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
