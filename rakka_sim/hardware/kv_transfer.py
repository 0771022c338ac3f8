"""How long it would take to move a sequence's KV blocks from one set of GPUs to another. For analysis only.

No actor calls this: prefill and decode run on the same replica in this version. It says what it would cost if they did
not: each rank of the target fetches its KV heads from a rank that has them, all at once, over links that they share.
Bandwidth alone counts, no latency of messages and no bookkeeping per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rakka_sim.config.shapes import ModelSpec
from rakka_sim.errors import InputError
from rakka_sim.hardware.routes import Routes
from rakka_sim.hardware.topology import ClusterTopology, Place
from rakka_sim.hardware.transfers import seconds_together


@dataclass(frozen=True, slots=True)
class KvFlow:
    """What one GPU sends another one, and when (s after the start) it is there."""

    source: Place
    target: Place
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class KvTransfer:
    """All that moves; what stays on its GPU moves nothing and takes no time."""

    flows: tuple[KvFlow, ...]

    @property
    def bytes(self) -> float:
        """Bytes that leave a GPU."""
        return sum(flow.bytes for flow in self.flows)

    @property
    def seconds(self) -> float:
        """Until the last of them is there."""
        return max((flow.seconds for flow in self.flows), default=0.0)


def kv_transfer(
    topology: ClusterTopology,
    source: Sequence[Place],
    target: Sequence[Place],
    model: ModelSpec,
    blocks: int,
    *,
    block_size: int = 16,
    kv_dtype: str = "bfloat16",
) -> KvTransfer:
    """`blocks` KV blocks from the ranks `source` to the ranks `target`, by rank; the two may be of unequal number.

    Raises InputError for no block, for a GPU that is named twice or is not there, and where the heads do not divide.
    """
    if blocks < 1:
        raise InputError("KV blocks", blocks, "at least 1")
    for what, ranks in (("source", source), ("target", target)):
        if len(set(ranks)) < len(ranks):
            raise InputError(f"{what} of a KV transfer", tuple(ranks), "GPUs, each once")
        model.check_tp(len(ranks))
    head_bytes = blocks * block_size * model.kv_bytes_per_token(kv_dtype) / model.kv_heads
    heads = _heads_to_move(model.kv_heads, len(source), len(target))
    moved = [(source[a], target[b], head_bytes * count) for (a, b), count in heads.items() if source[a] != target[b]]
    routes = Routes(topology)
    ways = [routes.between(a, b) for a, b, _ in moved]
    links = {link.name: link for way in ways for link in way}
    loads = [(tuple(link.name for link in way), size) for way, (_, _, size) in zip(ways, moved, strict=True)]
    seconds = seconds_together(links.values(), loads)
    return KvTransfer(tuple(KvFlow(*flow, took) for flow, took in zip(moved, seconds, strict=True)))


def _heads_to_move(kv_heads: int, source: int, target: int) -> dict[tuple[int, int], int]:
    """How many KV heads each rank of the target fetches from which rank of the source.

    Heads are split while there are enough of them, then copied. Of several ranks that have a head the copies of the
    target take one each in turn.
    """
    found: dict[tuple[int, int], int] = {}
    for head in range(kv_heads):
        having, wanting = _ranks_with(head, kv_heads, source), _ranks_with(head, kv_heads, target)
        for turn, rank in enumerate(wanting):
            pair = having[turn * len(having) // len(wanting)], rank
            found[pair] = found.get(pair, 0) + 1
    return found


def _ranks_with(head: int, kv_heads: int, ranks: int) -> list[int]:
    if ranks <= kv_heads:
        return [head * ranks // kv_heads]
    copies = ranks // kv_heads
    return list(range(head * copies, (head + 1) * copies))
