"""One node's book: who has which GPU, slice or egress slot, what is reserved, what it would quote. No other node's.

Every change of what is free gives the node a new epoch; a reservation must name the epoch of the quote it follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rakka_sim.core.placing.sets import Pick, Tables, gpus_of, mask_of
from rakka_sim.core.placing.slices import knows, slice_place
from rakka_sim.core.placing.spanning import gpu_count, spare_of
from rakka_sim.core.placing.terms import USUAL_MESSAGE_BYTES, Claim, Demand, NodeFacts, Place, Quote, Slices, Spare
from rakka_sim.errors import InputError, InvariantBroken, NodeChanged
from rakka_sim.values import NodeAssignment

if TYPE_CHECKING:
    from rakka_sim.core.placing.sets import SetTable

ANY_NUMBER = 1 << 30  # room of a node without a limit on remote replicas
# Epochs of a node that has come back start above all of its former life's.
EPOCHS_PER_LIFE = 1 << 32


def life_of(epoch: int) -> int:
    """How often the node had come back when it was in that state."""
    return epoch // EPOCHS_PER_LIFE


class NodeBook:
    """What is placed on one node: replicas, and parts of such as span nodes, each with its part here first."""

    __slots__ = ("_boards", "_demands", "_free", "_here", "_holders", "_tables", "_tickets", "epoch", "facts", "turn")

    def __init__(self, facts: NodeFacts, tables: Tables | None = None, life: int = 0) -> None:
        self.facts = facts
        self.epoch = life * EPOCHS_PER_LIFE
        self.turn = 0
        self._tables = tables or Tables()
        self._free = ((1 << facts.shape.count) - 1) & ~mask_of(tuple(facts.sliced))
        self._boards: dict[int, Slices] = dict(facts.sliced)
        self._holders: dict[int, list[str]] = {}
        self._here: dict[str, dict[int, NodeAssignment]] = {}
        self._demands: dict[str, Demand] = {}
        self._tickets: dict[str, Claim] = {}

    def copy(self) -> NodeBook:
        """The same book, to try something on."""
        other = NodeBook.__new__(NodeBook)
        other.facts, other.epoch, other.turn, other._tables = self.facts, self.epoch, self.turn, self._tables
        other._free, other._boards = self._free, dict(self._boards)
        other._holders = {gpu: list(names) for gpu, names in self._holders.items()}
        other._here = {name: dict(replicas) for name, replicas in self._here.items()}
        other._demands, other._tickets = dict(self._demands), dict(self._tickets)
        return other

    # --- looking ----------------------------------------------------------------------------------------------------

    @property
    def free_mask(self) -> int:
        """The whole GPUs that nobody has."""
        return self._free

    @property
    def free(self) -> int:
        """How many whole GPUs nobody has."""
        return self._free.bit_count()

    @property
    def hosted(self) -> int:
        """Replicas here, local and remote."""
        return sum(map(len, self._here.values()))

    @property
    def deployments(self) -> tuple[str, ...]:
        """Those with a replica here."""
        return tuple(self._here)

    def board(self, gpu: int) -> Slices:
        """The slices of a GPU in MIG mode."""
        return self._boards[gpu]

    def holders(self, gpu: int) -> tuple[str, ...]:
        """The deployments on a GPU, once for each replica."""
        return tuple(self._holders.get(gpu, ()))

    def assignments(self, deployment: str) -> tuple[NodeAssignment, ...]:
        """The replicas of a deployment here."""
        return tuple(self._here.get(deployment, {}).values())

    def state(self, free: int) -> tuple[int, ...]:
        """A set of free GPUs up to interchange (`SetTable.state`)."""
        return self._tables.of(self.facts.shape, USUAL_MESSAGE_BYTES).state(free)

    def table(self, demand: Demand) -> SetTable:
        """The sets of this node's GPUs, at the cost that a demand's collectives have."""
        return self._tables.of(self.facts.shape, demand.message_bytes)

    # --- quoting ----------------------------------------------------------------------------------------------------

    def quote(self, demand: Demand, count: int = 1, pick: Pick = "best", limit: int | None = None) -> Quote:
        """Places for up to `count` replicas, each on top of those before; `limit`: only GPUs below that ordinal.

        `pick` "best": by collective cost and flexibility; "lowest": the free GPUs of lowest ordinal; "blind": always
        the first GPUs, whoever has them and whether they exist.
        """
        refusal = "" if pick == "blind" else self.refusal(demand)
        spare = None
        if refusal:
            places: tuple[Place, ...] = ()
        elif pick == "blind":
            gpus = () if demand.provider else tuple(range(demand.gpus))
            there = self.facts.egress if demand.provider else self.facts.shape.count
            places = (Place(gpus),) * (count if there else 0)
        elif demand.provider:
            places = (Place(),) * min(count, self._egress_room())
        elif demand.profile:
            places = self._slice_places(demand, count, pick)
        else:
            free = self._free if limit is None else self._free & ((1 << max(0, limit)) - 1)
            places = self._gpu_places(demand, count, pick, free)
            spare = spare_of(self.facts.fabric, demand, gpus_of(free), places)
        return self._quote(demand, places, refusal, spare)

    def _quote(self, demand: Demand, places: tuple[Place, ...], refusal: str, spare: Spare | None) -> Quote:
        facts = self.facts
        if demand.provider:
            total, free = facts.egress_slots or ANY_NUMBER, self._egress_room()
        else:
            total, free = facts.shape.count, self.free
        return Quote(
            node=facts.name,
            epoch=self.epoch,
            domain=facts.failure_domain,
            gpu_model=facts.gpu_model,
            total=total,
            free=free,
            hosted=self.hosted,
            here=len(self._here.get(demand.deployment, ())),
            turn=self.turn,
            serves_account=bool(demand.provider) and any(d.account == demand.account for d in self._demands.values()),
            places=places,
            refusal=refusal,
            replicas=tuple(self._here.get(demand.deployment, ())),
            spare=spare,
        )

    def refusal(self, demand: Demand) -> str:
        """Why no replica may come here, however much is free; '' where one may."""
        facts = self.facts
        if demand.provider and not facts.egress:
            return "no egress"
        if not demand.provider and not facts.shape.count:
            return "no GPUs"
        if demand.region and demand.region != facts.region:
            return f"region {facts.region or 'unknown'}, not {demand.region}"
        if not demand.provider and demand.gpu_model and demand.gpu_model != facts.gpu_model:
            return f"GPU {facts.gpu_model or 'unknown'}, not {demand.gpu_model}"
        if not demand.provider and not demand.profile and facts.memory_gib < demand.min_gpu_memory_gib:
            return f"{facts.memory_gib:g} GiB per GPU, less than {demand.min_gpu_memory_gib:g}"
        if demand.profile and not any(knows(board, demand.profile) for board in facts.sliced.values()):
            return f"no GPU in MIG mode that has a profile {demand.profile}"
        for name, other in self._demands.items():
            if name in demand.anti_affinity or demand.deployment in other.anti_affinity:
                return f"anti-affinity with {name}"
        return ""

    def _egress_room(self) -> int:
        slots = self.facts.egress_slots
        if slots is None:
            return ANY_NUMBER
        return slots - sum(len(self._here[name]) for name, demand in self._demands.items() if demand.provider)

    def _gpu_places(self, demand: Demand, count: int, pick: Pick, free: int) -> tuple[Place, ...]:
        table, size = self.table(demand), demand.gpus
        places: list[Place] = []
        while len(places) < count and free.bit_count() >= size:
            if pick == "lowest" and demand.island == "prefer":
                mask = mask_of(gpus_of(free)[:size])
                places.append(Place(gpus_of(mask), cost_s=table.cost(mask)))
            else:
                best = table.best(free, size, demand.island == "require", count - len(places))
                if best is None:
                    break
                cost, left, mask = best
                lost = table.flexibility(free) - left
                places.append(Place(gpus_of(mask), None, cost, left, lost, table.waste(free, size)))
            free &= ~mask
        return tuple(places)

    def _slice_places(self, demand: Demand, count: int, pick: Pick) -> tuple[Place, ...]:
        boards = {gpu: board for gpu, board in self._boards.items() if not self._interpreter_taken(demand, gpu)}
        places: list[Place] = []
        while len(places) < count:
            ways = [way for gpu, board in boards.items() if (way := slice_place(gpu, board, demand.profile, pick))]
            if not ways:
                break
            place = ways[0] if pick == "lowest" else min(ways, key=lambda way: (way.loss, way.gpus))
            if place.slice is not None:
                (gpu,) = place.gpus
                boards[gpu] = boards[gpu].add(place.slice.profile, place.slice.start)
            places.append(place)
        return tuple(places)

    def _interpreter_taken(self, demand: Demand, gpu: int) -> bool:
        """Whether another deployment holds the interpreter of this GPU's process, and this one needs it."""
        others = (name for name in self._holders.get(gpu, ()) if name != demand.deployment)
        return demand.gil and any(self._demands[name].gil for name in others)

    # --- changing ---------------------------------------------------------------------------------------------------

    def reserve(self, ticket: str, epoch: int, claim: Claim) -> None:
        """Take what a claim names, until `commit` or `abort`; raises NodeChanged if the state is not the one quoted.

        Raises InputError, and takes nothing, for what is not there to take (unless the claim overbooks).
        """
        if epoch != self.epoch:
            raise NodeChanged(self.facts.name, epoch, self.epoch)
        taken: list[NodeAssignment] = []
        try:
            for assignment in claim.assignments:
                self._take(claim.demand, assignment, claim.overbook)
                taken.append(assignment)
        except InputError:
            for assignment in reversed(taken):
                self._give(claim.demand.deployment, assignment)
            raise
        self._tickets[ticket] = claim
        self.turn = max(self.turn, claim.turn)
        self.epoch += 1

    def commit(self, ticket: str) -> None:
        """The reserved replicas have come to stay; raises NodeChanged if there is no such reservation."""
        if self._tickets.pop(ticket, None) is None:
            raise NodeChanged(self.facts.name, self.epoch, self.epoch)

    def abort(self, ticket: str) -> None:
        """Give back what was reserved; harmless for a reservation that is no more."""
        claim = self._tickets.pop(ticket, None)
        if claim is not None:
            self._release(claim.demand.deployment, [a.replica_index for a in claim.assignments])

    def release(self, deployment: str, replicas: Iterable[int] | None = None) -> tuple[NodeAssignment, ...]:
        """Free a deployment's replicas here, or those of them named; what it had."""
        here = self._here.get(deployment, {})
        return self._release(deployment, [i for i in (list(here) if replicas is None else replicas) if i in here])

    def _release(self, deployment: str, replicas: list[int]) -> tuple[NodeAssignment, ...]:
        freed = [self._here[deployment][replica] for replica in replicas]
        for assignment in freed:
            self._give(deployment, assignment)
        if freed:
            self.epoch += 1
        return tuple(freed)

    def _take(self, demand: Demand, assignment: NodeAssignment, overbook: bool) -> None:
        mine = self._here.get(demand.deployment, {})
        wanted = mask_of(assignment.gpus)
        where = f"reservation of {demand.deployment} on {self.facts.name}"
        if assignment.replica_index in mine:
            raise InputError(where, assignment.replica_index, "a replica that is not here yet")
        if demand.provider:
            if not overbook and self._egress_room() < 1:
                raise InputError(where, assignment.replica_index, "a node with room for a remote replica")
        elif assignment.slice is not None:
            (gpu,) = assignment.gpus
            profile, start = assignment.slice.profile, assignment.slice.start
            if gpu not in self._boards or start not in self._boards[gpu].starts(profile):
                raise InputError(where, assignment.slice, "a slice that is free")
            self._boards[gpu] = self._boards[gpu].add(profile, start)
        elif not overbook and (gpu_count(assignment) != demand.gpus or not wanted or wanted & ~self._free):
            raise InputError(where, assignment.gpus, f"{demand.gpus} of the free GPUs {gpus_of(self._free)}")
        else:
            self._free &= ~wanted
        for gpu in assignment.gpus:
            self._holders.setdefault(gpu, []).append(demand.deployment)
        self._demands[demand.deployment] = demand
        self._here.setdefault(demand.deployment, {})[assignment.replica_index] = assignment

    def _give(self, deployment: str, assignment: NodeAssignment) -> None:
        here = self._here[deployment]
        del here[assignment.replica_index]
        if not here:
            del self._here[deployment], self._demands[deployment]
        if assignment.slice is not None:
            (gpu,) = assignment.gpus
            self._boards[gpu] = self._boards[gpu].remove(assignment.slice.profile, assignment.slice.start)
        for gpu in assignment.gpus:
            self._holders[gpu].remove(deployment)
            if not self._holders[gpu]:
                del self._holders[gpu]
                if gpu < self.facts.shape.count and gpu not in self._boards:
                    self._free |= 1 << gpu

    # --- checking ---------------------------------------------------------------------------------------------------

    @property
    def double_booked(self) -> dict[int, tuple[str, ...]]:
        """Whole GPUs that more than one replica has, with their deployments."""
        return {gpu: tuple(names) for gpu, names in self._holders.items() if len(names) > 1 and gpu not in self._boards}

    def check(self) -> None:
        """Raise InvariantBroken if a GPU has two holders or does not exist, or if the book contradicts itself."""
        where = f"placement on {self.facts.name}"
        for gpu, names in self.double_booked.items():
            raise InvariantBroken(where, f"GPU {gpu} has {len(names)} holders: {', '.join(names)}")
        beyond = [gpu for gpu in self._holders if gpu >= self.facts.shape.count]
        if beyond:
            raise InvariantBroken(where, f"there are no GPUs {beyond}")
        held = sorted((gpu, name) for gpu, names in self._holders.items() for name in names)
        placed = [(n, a) for n, replicas in self._here.items() for a in replicas.values()]
        if held != sorted((gpu, name) for name, assignment in placed for gpu in assignment.gpus):
            raise InvariantBroken(where, "the GPUs held are not those of the replicas here")
        if self._free & mask_of(tuple(self._holders)):
            raise InvariantBroken(where, "a GPU is free and held")
        whole = self._free.bit_count() + sum(1 for gpu in self._holders if gpu not in self._boards)
        if whole != self.facts.shape.count - len(self._boards):
            raise InvariantBroken(where, "a GPU is neither free nor held")
        if self._demands.keys() != self._here.keys():
            raise InvariantBroken(where, "a deployment is here without its demand")
        if self._egress_room() < 0:
            raise InvariantBroken(where, "more remote replicas than there is room for")
