"""What tensor parallelism adds to a step: all-reduces and the gathering of logits, by the group of GPUs that share it.

How a set of GPUs comes to be a group is not here; NCCL's times are `hardware.collectives`.
"""

from __future__ import annotations

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec, dtype_bytes
from rakka_sim.errors import InputError
from rakka_sim.hardware.collectives import Fabric, Group, all_gather, all_reduce, own_group
from rakka_sim.hardware.mig import check_peers
from rakka_sim.timing.constants import Constants

_NVLINKS = (Fabric.NVSWITCH, Fabric.NVLINK)


class TensorParallel:
    """Seconds of a step's collectives among `tp` GPUs; none for one GPU.

    Among GPUs that reach each other as they do in the machine they are usually sold in, an engine's own kernels do it:
    `constants.reduce`, which was fitted to them, the bytes at the rate of this group's ring. Among others (across
    sockets, over host memory, over nodes, NVLink to some only) engines leave it to NCCL, as vLLM does: NCCL's time, but
    never less than what was measured on the better fabric. So they do over nodes of one NVLink fabric: their kernels
    reach no further than a machine. Raises MigNoPeers for slices, InputError for a group of another size.
    """

    __slots__ = ("_base_s", "_gather_byte_s", "_hidden_bytes", "_nccl", "_reduce_byte_s", "_reduces", "_row_bytes")

    def __init__(
        self, model: ModelSpec, gpu: GpuSpec, tp: int, dtype: str, constants: Constants, group: Group | None = None
    ) -> None:
        check_peers(gpu, tp)
        if group is not None and group.gpus != tp:
            raise InputError("GPUs of the group", group.gpus, f"{tp}, the GPUs per replica (tp)")
        reduce, bus = constants.reduce, gpu.link_bandwidth * constants.reduce.bus_share
        self._nccl: Group | None = None
        if group is not None and tp > 1:
            own = own_group(gpu, tp)
            if _as_sold(group, own):
                bus *= group.ring_gb_s / own.ring_gb_s
            else:
                self._nccl = group
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
        once = self._base_s + tokens * self._hidden_bytes * self._reduce_byte_s
        if self._nccl is not None:
            once = max(once, all_reduce(self._nccl, tokens * self._hidden_bytes))
        return self._reduces * once

    def gather_seconds(self, samples: int) -> float:
        """Bringing the logits of `samples` rows together."""
        once = self._base_s + samples * self._row_bytes * self._gather_byte_s
        return once if self._nccl is None else max(once, all_gather(self._nccl, samples * self._row_bytes))


def _as_sold(group: Group, own: Group) -> bool:
    """Whether `group` has among all its GPUs what `own` has: NVLink, or PCIe (host memory) where there is no NVLink."""
    alike = group.fabric is own.fabric or (group.fabric in _NVLINKS and own.fabric is not Fabric.HOST)
    return alike and group.all_pairs and group.nodes == group.hosts == 1
