"""The time model of one GPU's measured kernels (LLMServingSim's profile format); no kernel is modelled here.

A folder holds `dense.csv` (layer, tokens, time_us), `per_sequence.csv` (layer, sequences, time_us), `attention.csv`
(prefill_chunk, kv_prefill, n_decode, kv_decode, time_us: one layer), `skew_fit.csv` and `meta.yaml`.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec
from rakka_sim.errors import InputError
from rakka_sim.timing.curves import Array, Curve, Grid, doubling, total
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.roofline import Roofline
from rakka_sim.timing.skew import Skew
from rakka_sim.timing.tabulated import Tabulated

_PER_LAYER = {
    "qkv_proj": 1, "o_proj": 1, "gate_up_proj": 1, "down_proj": 1, "act_fn": 1, "rotary_emb": 1, "layernorm": 2,
}  # fmt: skip
_ONCE = ("embedding", "final_layernorm")
_HEAD = ("lm_head", "sampler")
_US = 1e-6


def _rows(file: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not file.is_file():
        raise InputError("profile", str(file), "a file: a profile is dense.csv, per_sequence.csv and attention.csv")
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if set(columns) - set(reader.fieldnames or ()):
            raise InputError(f"{file}: columns", reader.fieldnames, ", ".join(columns))
        return [tuple(row[name] for name in columns) for row in reader]


def _number(file: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(str(file), text, "a number") from None


def _curves(file: Path, size: str, wanted: tuple[str, ...]) -> dict[str, Curve]:
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for layer, x, y in _rows(file, ("layer", size, "time_us")):
        points[layer].append((_number(file, x), _number(file, y) * _US))
    missing = [name for name in wanted if name not in points]
    if missing:
        raise InputError(f"{file}: layers", ", ".join(points), f"all of {', '.join(wanted)}")
    return {
        name: Curve([x for x, _ in found], [y for _, y in found], f"{file}: {name}") for name, found in points.items()
    }


class Kernels:
    """Dense kernels by tokens, head and sampler by sequences."""

    __slots__ = ("_head", "_layers")

    def __init__(self, folder: Path, layers: int) -> None:
        dense = _curves(folder / "dense.csv", "tokens", (*_PER_LAYER, *_ONCE))
        per_row = _curves(folder / "per_sequence.csv", "sequences", _HEAD)
        once: list[tuple[Curve, float]] = [(dense[name], 1.0) for name in _ONCE]
        self._layers = total([*once, *((dense[name], float(times * layers)) for name, times in _PER_LAYER.items())])
        self._head = total((per_row[name], 1.0) for name in _HEAD)

    def layers(self, tokens: int) -> float:
        return self._layers.at(tokens)

    def head(self, samples: int) -> float:
        return self._head.at(samples)


class MeasuredAttention:
    """Attention over all layers, from the calls of one layer.

    Decode rows beside prefill rows are not what they are alone: an attention call with a prefill row runs every row
    as blocks of its longest chunk. So the table of mixed calls is kept apart, less their prefill row. Prefill rows of
    one call add up, less the start that they share.
    """

    __slots__ = ("_chunks", "_decode", "_layers", "_mixed", "_prefill", "_skew", "_start")

    def __init__(self, folder: Path, layers: int, skew: Skew) -> None:
        file = folder / "attention.csv"
        names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
        table = {
            (float(chunk), float(cached), float(rows), float(context)): _number(file, time) * _US
            for chunk, cached, rows, context, time in _rows(file, names)
        }
        self._layers, self._skew = layers, skew
        alone: dict[tuple[float, ...], float] = {
            (rows, context): s for (chunk, _, rows, context), s in table.items() if rows and not chunk
        }
        self._decode = Grid([doubling(key[0] for key in alone), sorted({key[1] for key in alone})], alone)
        prefill: dict[float, dict[float, float]] = defaultdict(dict)
        for (chunk, cached, rows, _), s in table.items():
            if chunk and not rows:
                prefill[chunk][cached] = s
        self._prefill = {chunk: Curve(list(found), list(found.values()), str(file)) for chunk, found in prefill.items()}
        self._chunks = sorted(self._prefill)
        self._start = min(float(curve.times[0]) for curve in self._prefill.values())
        self._mixed = self._mixed_grid(table)

    def _mixed_grid(self, table: dict[tuple[float, float, float, float], float]) -> Grid:
        mixed = {key: s for key, s in table.items() if key[0] and key[2]}
        axes = [doubling(key[axis] for key in mixed) for axis in range(4)]
        beside: dict[tuple[float, ...], float] = {key: s - self._row_s(key[0], key[1]) for key, s in mixed.items()}
        return Grid(axes, beside)

    def _row_s(self, chunk: float, cached: float) -> float:
        """One prefill row by itself, one layer."""
        chunks = self._chunks
        above = next((known for known in chunks if known >= chunk), chunks[-1])
        below = max((known for known in chunks if known <= chunk), default=chunks[0])
        if above == below:
            return self._prefill[above].at(cached)
        share = (chunk - below) / (above - below)
        return self._prefill[below].at(cached) * (1.0 - share) + self._prefill[above].at(cached) * share

    def decode_curve(self, rows: int) -> Curve:
        contexts = self._decode.axes[1]
        return Curve(contexts, [self._decode.at(rows, kv) * self._layers for kv in contexts])

    def skew(self, rows: int, mean: Array, longest: Array) -> Array | float:
        return self._skew.decode(rows, mean, longest)

    def with_prefill(self, prefill: tuple[tuple[int, int], ...], rows: int, mean: float, longest: float) -> float:
        one = self._start + sum(self._row_s(chunk, cached) - self._start for chunk, cached in prefill)
        if rows:
            chunk, cached = max(prefill)
            tokens = sum(chunk for chunk, _ in prefill)
            one += self._mixed.at(chunk, cached, rows, mean)
            one += self._skew.mixed(tokens, rows) * self._slope(chunk, cached, rows, mean) * (longest - mean)
        return one * self._layers

    def _slope(self, chunk: int, cached: int, rows: int, mean: float) -> float:
        """Seconds per token of context below the mean: above it, a batch that is all long may outgrow the L2 cache,
        which one with a few long rows does not."""
        contexts = self._mixed.axes[3]
        at = max(int(contexts.searchsorted(mean, side="right")) - 1, 1)
        low, high = float(contexts[at - 1]), float(contexts[at])
        return (self._mixed.at(chunk, cached, rows, high) - self._mixed.at(chunk, cached, rows, low)) / (high - low)


def _skew_is_enabled(folder: Path) -> bool:
    """What `meta.yaml` says of `skew_fit`; a table whose fit the profile does not enable is not to be used."""
    meta = folder / "meta.yaml"
    if not meta.is_file():
        return (folder / "skew_fit.csv").is_file()
    section = ""
    for line in meta.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(" "):
            section = line.partition(":")[0]
        elif section == "skew_fit" and line.strip().startswith("enabled:"):
            return line.partition(":")[2].strip() == "true" and (folder / "skew_fit.csv").is_file()
    return False


def profile_model(folder: Path, model: ModelSpec, gpu: GpuSpec, padding: Padding) -> Tabulated:
    """The model of a profile's folder, which must be of this model on one GPU of this kind; raises InputError."""
    if not folder.is_dir():
        raise InputError("time_model.path", str(folder), "the folder of a profile")
    meta = folder / "meta.yaml"
    said = meta.read_text(encoding="utf-8") if meta.is_file() else ""
    if said and model.name.lower() not in said.lower():
        raise InputError(f"{meta}: model", model.name, "the model that the profile was measured with")
    skew = Skew.read(folder / "skew_fit.csv") if _skew_is_enabled(folder) else Skew()
    attention = MeasuredAttention(folder, model.layers, skew)
    return Tabulated(Kernels(folder, model.layers), attention, padding, Roofline(model, gpu), model.sliding_window)
