"""What placing must know of how GPUs are joined; where that comes from (hardware, a test) is not here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeGuard

if TYPE_CHECKING:
    from rakka_sim.hardware.set_costs import SetCosts
    from rakka_sim.hardware.subsets import Array


class Shape(Protocol):
    """The GPUs 0..count-1 of one node, and what a collective among some of them costs.

    Two shapes of equal `key` are alike in everything below: what was worked out for one holds for the other.
    """

    @property
    def key(self) -> Hashable: ...

    @property
    def count(self) -> int: ...

    @property
    def islands(self) -> tuple[tuple[int, ...], ...]:
        """The largest sets in which any two GPUs have the node's fast link between them; a GPU may be in several."""
        ...

    def pair(self, a: int, b: int) -> Hashable:
        """What lies between two GPUs, or what one is (a == b). GPUs that do not differ in it are interchangeable."""
        ...

    def set_cost(self, gpus: tuple[int, ...], message_bytes: int) -> float:
        """Seconds of one all-reduce of `message_bytes` among `gpus`, ascending; 0 for a single GPU."""
        ...


class Fabric(Protocol):
    """What joins GPUs of several nodes as it joins those of one (an NVLink domain), seen from one of the nodes."""

    @property
    def name(self) -> str:
        """Nodes whose fabrics have one name have one fabric."""
        ...

    def cost(self, gpu: int, gpus: int, message_bytes: int) -> float | None:
        """Seconds of one all-reduce of `message_bytes` among `gpus` GPUs of which none is joined worse than `gpu`.

        None for a GPU that is not joined.
        """
        ...


class Surveyed(Protocol):
    """A shape that can also say what all sets of a size cost at once, for up to 16 GPUs."""

    def set_costs(self, size: int, message_bytes: int) -> SetCosts:
        """What `set_cost` is for each set of `size` GPUs, those of lowest ordinals first, or less where not `sure`."""
        ...

    def settled(self, masks: Array, message_bytes: int) -> list[float]:
        """What `set_cost` is for sets (masks) of one size that were not sure."""
        ...


def surveyed(shape: object) -> TypeGuard[Surveyed]:
    """Whether a shape is such a one."""
    return hasattr(shape, "set_costs")


@dataclass(frozen=True, slots=True)
class Alike:
    """GPUs of which nothing is known but their number: any set is as good as any other."""

    count: int

    @property
    def key(self) -> Hashable:
        return ("alike", self.count)

    @property
    def islands(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(self.count)),) if self.count else ()

    def pair(self, a: int, b: int) -> Hashable:
        return None

    def set_cost(self, gpus: tuple[int, ...], message_bytes: int) -> float:
        return 0.0


def twins(shape: Shape) -> tuple[tuple[int, ...], ...]:
    """The GPUs in classes of interchangeable ones: swapping two of a class changes no pair and no island."""
    islands = {frozenset(island) for island in shape.islands}
    classes: list[list[int]] = []
    for gpu in range(shape.count):
        for members in classes:
            if _interchangeable(shape, islands, members[0], gpu):
                members.append(gpu)
                break
        else:
            classes.append([gpu])
    return tuple(tuple(members) for members in classes)


def _interchangeable(shape: Shape, islands: set[frozenset[int]], a: int, b: int) -> bool:
    others = (gpu for gpu in range(shape.count) if gpu not in (a, b))
    if shape.pair(a, a) != shape.pair(b, b) or shape.pair(a, b) != shape.pair(b, a):
        return False
    if any(shape.pair(a, x) != shape.pair(b, x) or shape.pair(x, a) != shape.pair(x, b) for x in others):
        return False
    swap = {a: b, b: a}
    return {frozenset(swap.get(gpu, gpu) for gpu in island) for island in islands} == islands
