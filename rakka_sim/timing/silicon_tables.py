"""The kernel tables that come with aiconfigurator-core (extra `silicon`): found, read, selected; nothing is added up.

Latencies there are in ms and of one call; a folder per system, operation, engine and engine version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.errors import InputError
from rakka_sim.timing.curves import Curve, Grid

if TYPE_CHECKING:
    import pandas as pd

SYSTEMS = {
    "A100-40": "a100_sxm",
    "A100-80": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "GB200": "gb200",
    "L40S": "l40s",
    "RTX PRO 6000": "rtx_pro_6000_server",
}
_MS = 1e-3
_DISTRIBUTION = "power_law_1.01"  # of tokens over experts: a trained gate is not even


def package_folder() -> Path:
    """The `systems` folder of aiconfigurator-core; raises InputError where it is not installed."""
    try:
        import aiconfigurator_core
    except ImportError:
        raise InputError('time_model.kind = "silicon"', "not installed", "pip install rakka_sim[silicon]") from None
    return Path(str(aiconfigurator_core.__file__)).parent / "systems"


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.name))


@cache
def _read(file: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(file)


class Tables:
    """The tables of one GPU as measured in one engine, its newest version that has the operation."""

    def __init__(self, gpu: str, backend: str) -> None:
        system = SYSTEMS.get(gpu)
        if system is None:
            raise InputError("silicon: gpu", gpu, ", ".join(SYSTEMS))
        self.gpu, self.backend = gpu, backend
        self._folder = package_folder() / "data" / system

    def _frame(self, operation: str, name: str) -> pd.DataFrame:
        versions = sorted((self._folder / operation / self.backend).glob("*/"), key=_version, reverse=True)
        file = next((found for folder in versions if (found := folder / f"{name}.parquet").is_file()), None)
        if file is None:
            known = sorted(path.parent.name for path in self._folder.glob(f"*/*/*/{name}.parquet"))
            raise InputError(f"silicon: {name} of {self.gpu}", self.backend, ", ".join(known) or "no engine: no data")
        return _read(file)

    def _select(self, frame: pd.DataFrame, what: str, **wanted: Any) -> pd.DataFrame:
        """The rows that have all these values; raises InputError that names the first column at fault."""
        for column, value in wanted.items():
            if column not in frame.columns:  # older tables have no windows: full attention alone
                continue
            kept = frame[frame[column] == value]
            if kept.empty:
                there = ", ".join(sorted({str(found) for found in frame[column].unique()}, key=lambda s: (len(s), s)))
                raise InputError(f"silicon: {what} of {self.gpu} ({self.backend}): {column}", value, there)
            frame = kept
        return frame

    def gemm(self, dtype: str) -> Gemms:
        """Matrix products with weights of `dtype`: bfloat16, fp8 or fp8_block."""
        return Gemms(self._select(self._frame("gemm", "gemm_perf"), "gemm", gemm_dtype=dtype))

    def quantise(self, width: int) -> Curve:
        """Seconds to bring rows of `width` activations to FP8, by a kernel of its own."""
        frame = self._frame("quantize", "scale_matrix_perf")
        nearest = min(frame["k"].unique(), key=lambda k: abs(int(k) - width))
        kept = frame[frame["k"] == nearest].sort_values("m")
        return Curve(kept["m"].to_numpy(), kept["latency"].to_numpy() * (_MS * max(1.0, width / float(nearest))))

    def _attention(
        self, stage: str, what: str, heads: int, kv_heads: int, head_dim: int, kv_dtype: str, window: int
    ) -> pd.DataFrame:
        return self._select(
            self._frame("attention", f"{stage}_attention_perf"),
            what,
            head_dim=head_dim,
            kv_cache_dtype=kv_dtype,
            window_size=window,
            num_heads=heads,
            num_key_value_heads=kv_heads,
        )

    def decode(self, heads: int, kv_heads: int, head_dim: int, kv_dtype: str, window: int) -> Grid:
        """One layer's attention of a batch of decode rows: rows x context."""
        frame = self._attention("generation", "decode attention", heads, kv_heads, head_dim, kv_dtype, window)
        points: dict[tuple[float, ...], float] = {}
        for rows, isl, step, ms in frame[["batch_size", "isl", "step", "latency"]].itertuples(index=False):
            key = (float(rows), float(isl + step))
            points[key] = min(points.get(key, ms * _MS), ms * _MS)
        axes = [sorted({key[axis] for key in points}) for axis in (0, 1)]
        return Grid(axes, points)

    def prefill(self, heads: int, kv_heads: int, head_dim: int, kv_dtype: str, window: int) -> Curve:
        """One layer's attention of one whole prompt, by its length."""
        kept = self._attention("context", "prefill attention", heads, kv_heads, head_dim, kv_dtype, window)
        frame = self._select(kept, "prefill attention", batch_size=1)
        best = frame.groupby("isl")["latency"].min()
        return Curve(best.index.to_numpy(), best.to_numpy() * _MS)

    def experts(self, dtype: str, shape: Mapping[str, int], tp: int, ep: int) -> Curve:
        """One layer's experts, by tokens; `shape`: hidden_size, inter_size, topk, num_experts."""
        frame = self._select(
            self._frame("moe", "moe_perf"), "experts", moe_dtype=dtype, **shape, moe_tp_size=tp, moe_ep_size=ep
        )
        kept = frame[frame["distribution"] == _DISTRIBUTION]
        best = (frame if kept.empty else kept).groupby("num_tokens")["latency"].min()
        return Curve(best.index.to_numpy(), best.to_numpy() * _MS)

    def all_reduce(self, gpus: int) -> Curve:
        """One all-reduce among the GPUs of a node, by elements of 16 bits; inside a CUDA graph where both are known."""
        frame = self._select(self._frame("comm", "custom_allreduce_perf"), "all-reduce", num_gpus=gpus)
        best = frame.groupby("message_size")["latency"].min()
        return Curve(best.index.to_numpy(), best.to_numpy() * _MS)


class Gemms:
    """Curves over tokens of m x k by k x n products, for any n and k: linear between the measured ones."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._at = {name: frame[name].to_numpy() for name in ("n", "k", "m", "latency")}
        self._n, self._k = (sorted(map(int, np.unique(self._at[name]))) for name in ("n", "k"))

    def _measured(self, n: int, k: int) -> Curve | None:
        at = self._at
        here = (at["n"] == n) & (at["k"] == k)
        if not here.any():
            return None
        tokens = np.unique(at["m"][here])
        best = np.full(len(tokens), np.inf)
        np.minimum.at(best, tokens.searchsorted(at["m"][here]), at["latency"][here])
        return Curve(tokens, best * _MS)

    def curve(self, n: int, k: int) -> Curve:
        """Seconds by tokens."""
        (n0, n1, u), (k0, k1, v) = _around(self._n, n), _around(self._k, k)
        corners = [((n0, k0), (1 - u) * (1 - v)), ((n1, k0), u * (1 - v)), ((n0, k1), (1 - u) * v), ((n1, k1), u * v)]
        found = [(self._measured(*key), weight) for key, weight in corners if weight]
        used = [(curve, weight) for curve, weight in found if curve is not None]
        if not used or abs(sum(weight for _, weight in used) - 1.0) > 1e-9:
            raise InputError("silicon: gemm n x k", f"{n} x {k}", f"up to {self._n[-1]} x {self._k[-1]}, measured near")
        sizes = used[0][0].sizes
        return Curve(sizes, sum(curve.over(sizes) * weight for curve, weight in used))  # type: ignore[arg-type]


def _around(known: list[int], size: int) -> tuple[int, int, float]:
    """The two measured sizes about a size, and how far it is from the first to the second; beyond the last, over 1."""
    above = next((value for value in known if value >= size), None)
    if above == size:
        return size, size, 0.0
    low, high = (known[-2], known[-1]) if above is None else (max((v for v in known if v < size), default=above), above)
    return low, high, 0.0 if low == high else (size - low) / (high - low)
