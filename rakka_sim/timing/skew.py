"""What unequal decode contexts cost: a profile's own table of how far such a batch is from its mean to its longest."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from rakka_sim.errors import InputError
from rakka_sim.timing.curves import Array

# The table is of batches of two kinds of rows, one with four times the context of the other. The mean over the longest
# context says which share of the rows is long.
_LONG_OVER_SHORT = 4.0
_USUAL_SHARE = 0.4  # of long rows; a table's buckets above it are batches with a few short rows among long ones
_COLUMNS = ("pc", "n_label", "skew_rate_label", "kv_big_label", "kp_label", "alpha", "n_samples")


def _bound(label: str, file: Path) -> float:
    """`n<=64`, `sr<=15%`, `kvB<=4k`, `kp=0` as the largest value in the bucket; `>` has no largest."""
    if ">" in label:
        return math.inf
    text = label.partition("=")[2]
    scale = {"%": 0.01, "k": 1024.0}.get(text[-1:], 1.0)
    try:
        return float(text.rstrip("%k")) * scale
    except ValueError:
        raise InputError(f"{file}: label", label, "a bound like n<=64, sr<=15%, kvB<=4k") from None


class Skew:
    """Shares between the time at the mean context (0) and at the longest (1), by batch.

    Without a file, or where the profile says its fit is not enabled, every batch counts as its mean.
    """

    __slots__ = ("_chunks", "_decode", "_mixed", "_rows")

    def __init__(self) -> None:
        # rows -> (bounds of the share of long rows, bounds of the longest context, values)
        self._decode: dict[float, tuple[Array, Array, Array]] = {}
        self._mixed: dict[float, tuple[list[float], list[float]]] = {}  # chunk -> (log rows, values)
        self._rows: list[float] = []
        self._chunks: list[float] = []

    @classmethod
    def read(cls, file: Path) -> Skew:
        """The table of `skew_fit.csv`."""
        self = cls()
        decode: dict[tuple[float, float, float], float] = {}
        mixed: dict[tuple[float, float], list[tuple[float, float]]] = defaultdict(list)
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if set(_COLUMNS) - set(reader.fieldnames or ()):
                raise InputError(f"{file}: columns", reader.fieldnames, ", ".join(_COLUMNS))
            found = [[row[name] for name in _COLUMNS] for row in reader]
        smallest = min((_bound(kv, file) for _, _, _, kv, _, _, _ in found), default=0.0)
        for chunk, n, rate, kv, _, alpha, samples in found:
            rows, share, longest = _bound(n, file), _bound(rate, file), _bound(kv, file)
            if chunk == "0":
                decode[rows, share, longest] = float(alpha)
            elif longest == smallest and share <= _USUAL_SHARE:
                mixed[float(chunk), rows].append((float(alpha), float(samples)))
        self._take(decode, mixed)
        return self

    def _take(
        self,
        decode: dict[tuple[float, float, float], float],
        mixed: dict[tuple[float, float], list[tuple[float, float]]],
    ) -> None:
        shares, longest = (sorted({key[axis] for key in decode}) for axis in (1, 2))
        for rows in sorted({key[0] for key in decode}):
            values = np.array([[decode.get((rows, share, kv), np.nan) for kv in longest] for share in shares])
            values = np.where(np.isnan(values), np.nanmean(values), values)  # a bucket nobody measured
            self._decode[rows] = np.array(shares[:-1]), np.array(longest[:-1]), values
        self._rows = sorted(self._decode)
        for (chunk, rows), found in sorted(mixed.items()):
            weight = sum(samples for _, samples in found)
            logs, values_ = self._mixed.setdefault(chunk, ([], []))
            logs.append(math.log(rows))
            values_.append(sum(alpha * samples for alpha, samples in found) / weight)
        self._chunks = sorted(self._mixed)

    def decode(self, rows: int, mean: Array, longest: Array) -> Array | float:
        """Of batches of decode rows alone."""
        if rows < 2 or not self._rows:
            return 0.0
        bucket = next((bound for bound in self._rows if rows <= bound), self._rows[-1])
        shares, contexts, values = self._decode[bucket]
        share = (mean / longest * _LONG_OVER_SHORT - 1.0) / (_LONG_OVER_SHORT - 1.0)
        return values[shares.searchsorted(share), contexts.searchsorted(longest)]

    def mixed(self, chunk: int, rows: int) -> float:
        """Of `rows` decode rows beside `chunk` tokens of prefill, where caches hold their contexts."""
        if rows < 2 or not self._chunks:
            return 0.0
        nearest = min(self._chunks, key=lambda known: abs(math.log(known / chunk)))
        logs, values = self._mixed[nearest]
        return float(np.interp(math.log(rows), logs, values))
