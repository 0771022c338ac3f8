"""What tensor parallelism adds to a step: all-reduces and the gathering of logits, as a ring; topology is not here."""

from __future__ import annotations

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec, dtype_bytes
from rakka_sim.timing.constants import Constants


class TensorParallel:
    """Seconds of a step's collectives among `tp` GPUs of one node; none for one GPU."""

    __slots__ = ("_base_s", "_gather_byte_s", "_hidden_bytes", "_reduce_byte_s", "_reduces", "_row_bytes")

    def __init__(self, model: ModelSpec, gpu: GpuSpec, tp: int, dtype: str, constants: Constants) -> None:
        reduce = constants.reduce
        bus = gpu.link_bandwidth * reduce.bus_share
        wide = max(2, dtype_bytes(dtype))
        self._base_s = reduce.base_s + 2 * (tp - 1) * reduce.hop_s if tp > 1 else 0.0
        self._reduce_byte_s = 2 * (tp - 1) / tp / bus
        self._gather_byte_s = (tp - 1) / tp / bus
        # After attention and feed-forward of every layer, and after the embedding, whose rows are spread as well.
        self._reduces = 2 * model.layers + 1
        self._hidden_bytes = model.hidden * wide
        self._row_bytes = model.vocab * wide

    def seconds(self, tokens: int) -> float:
        """The all-reduces of all layers over `tokens` rows of the hidden state."""
        return self._reduces * (self._base_s + tokens * self._hidden_bytes * self._reduce_byte_s)

    def gather_seconds(self, samples: int) -> float:
        """Bringing the logits of `samples` rows together."""
        return self._base_s + samples * self._row_bytes * self._gather_byte_s
