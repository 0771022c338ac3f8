"""From a workload's `trace` table to rows: finds the file, picks the reader, cuts the window out of it.

What a format looks like may not be known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from rakka_sim.config.workload import Trace
from rakka_sim.errors import InputError
from rakka_sim.workload import datasets
from rakka_sim.workload.files import open_checked
from rakka_sim.workload.readers import azure, burstgpt, mooncake, sharegpt, vllm
from rakka_sim.workload.readers.row import Row, Tally

KEPT = 100_000  # rows

Reader = Callable[[Path, bool, Tally], Iterator[Row]]

READERS: dict[str, Reader] = {
    "azure": azure.rows,
    "mooncake": mooncake.rows,
    "vllm": vllm.rows,
    "sharegpt": sharegpt.rows,
    "burstgpt": burstgpt.rows,
}


class TraceFile:
    """A trace that was found and can be opened; its rows are read as they are asked for.

    Those of a short one are kept from the check on, so that it is read once.
    """

    __slots__ = ("_kept", "_limit", "_offset_s", "_reader", "_tally", "format", "path")

    def __init__(self, config: Trace, base_dir: Path) -> None:
        """Raises UnknownName, DatasetMissing or InputError."""
        self.path, self.format = _locate(config, base_dir)
        self._reader = READERS[self.format]
        if config.hashed_tokens is not None:
            self._reader = partial(mooncake.rows, hashed=config.hashed_tokens)
        self._offset_s, self._limit = config.offset_s, config.limit
        self._tally = Tally()
        self._kept: dict[bool, list[Row]] = {}  # by whether they are timed

    @property
    def skipped(self) -> int:
        """Rows left out so far because they are no requests."""
        return self._tally.skipped

    def rows(self, timed: bool) -> Iterator[Row]:
        """The rows of the window, times counted from its start. Raises TraceError, InputError for an empty window."""
        if timed in self._kept:
            return iter(self._kept[timed])
        found = self._reader(self.path, timed or self._offset_s > 0, self._tally)
        if self._offset_s:
            found = self._after_offset(found)
        return islice(found, self._limit)

    def check(self, timed: bool, most: int | None) -> int:
        """Read up to `most` rows once, so that a faulty one is found before anything runs; how many there are.

        Raises what `rows` raises, and InputError if all of them are skipped.
        """
        found = islice(self.rows(timed), most)
        first = list(islice(found, KEPT))
        rows = len(first) + sum(1 for _ in found)
        if rows < KEPT and not self._tally.skipped:  # what is skipped counts when its turn comes
            self._kept[timed] = first
        if not rows:
            raise InputError("workload.trace", str(self.path), f"a request or more; its {self.skipped} rows are none")
        self._tally.skipped = 0
        return rows

    def _after_offset(self, rows: Iterator[Row]) -> Iterator[Row]:
        last = 0.0
        for prompt, output, blocks, at in rows:
            last = at
            if at >= self._offset_s:
                yield Row(prompt, output, blocks, at - self._offset_s)
        if last < self._offset_s:
            raise InputError("workload.trace.offset_s", self._offset_s, f"at most {last} s, where {self.path} ends")


def _locate(config: Trace, base_dir: Path) -> tuple[Path, str]:
    if config.dataset is None:
        where = "workload.trace.path"
        return open_checked(base_dir / (config.path or ""), where), config.format or ""
    dataset = datasets.lookup(config.dataset)
    if config.format not in (None, dataset.format):
        raise InputError("workload.trace.format", config.format, f"{dataset.format!r}, as {dataset.name} has it")
    return datasets.find(config.dataset, [base_dir / folder for folder in config.data_dirs]), dataset.format
