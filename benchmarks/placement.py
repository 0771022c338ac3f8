"""How fast placement decides: clusters, quotes, first quotes, and beside them the partition search of go-gpuallocator.

    python benchmarks/placement.py [--quick] [--json FILE]

Decision time only: no messages, no API server. Seconds are of the processor (all threads together), so that a busy
machine does not count; wall seconds are in the JSON too. `pair_partition` below is what NVIDIA's device plugin does
when it is asked for k GPUs (gpuallocator/besteffort_policy.go, Apache-2.0), told again in Python: it enumerates every
partition of the free GPUs into sets of k and takes the best set of the partition with the largest sum of pair scores.
It and ours run in the same process on the same machine, so the ratio says something and the absolute times less.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import about
import numpy as np

from rakka_sim.core.placing import Claim, Demand, Ledger, NodeBook, NodeFacts, Tables, place_all
from rakka_sim.core.placing.solvers import solver_name
from rakka_sim.hardware import collectives, groups, packing, pairs, rings, set_costs, subsets
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.nccl_xml import read_nccl_xml
from rakka_sim.hardware.parts import NvLink
from rakka_sim.hardware.paths import PathClass
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.shape import MachineShape
from rakka_sim.values import NodeAssignment

SEED = 0
NODES, FREE, REPLICAS = 10_000, 61_892, 18_866
SIZES = (1, 2, 4, 8)
HGX = MachineShape(preset("hgx-h100"))


# --- whole clusters ---------------------------------------------------------------------------------------------


def free_counts(nodes: int, total: int, rng: np.random.Generator) -> list[int]:
    """Free GPUs per node, 0 to 8, that add up to `total`."""
    counts = rng.integers(0, 9, nodes)
    while (over := int(counts.sum()) - total) != 0:
        able = np.flatnonzero(counts > 0 if over > 0 else counts < 8)
        chosen = rng.choice(able, min(abs(over), len(able)), replace=False)
        counts[chosen] -= np.sign(over)
    return [int(count) for count in counts]


def sizes_for(counts: list[int], replicas: int, rng: np.random.Generator) -> list[int]:
    """Sizes of `replicas` replicas that fill all free GPUs: nodes cut into powers of two, some of these into halves."""
    pieces: list[int] = []
    for count in counts:
        pieces += [size for size in SIZES if count & size]
    while len(pieces) < replicas:
        large = [index for index, size in enumerate(pieces) if size > 1]
        index = int(rng.choice(large))
        pieces[index] //= 2
        pieces.append(pieces[index])
    if len(pieces) > replicas:
        raise SystemExit("too few GPUs for so few replicas")
    return [int(size) for size in rng.permutation(pieces)]


def cluster(counts: list[int], policy: str, rng: np.random.Generator) -> Ledger:
    """Nodes of eight H100 on one fabric each, with so many of their GPUs free, which ones by chance."""
    ledger = Ledger([NodeFacts(f"n{i:05}", HGX, "H100", 79.2) for i in range(len(counts))], policy)
    for book, count in zip(ledger.books.values(), counts, strict=True):
        taken = tuple(sorted(int(gpu) for gpu in rng.permutation(8)[count:]))
        if taken:
            claim = Claim(Demand("before", 1, len(taken)), (NodeAssignment(0, book.facts.name, taken),))
            book.reserve("before", book.epoch, claim)
            book.commit("before")
    return ledger


def batches(quick: bool) -> dict[str, Any]:
    """Every policy that decides many at once, on one large cluster."""
    scale = 100 if quick else 1
    rng = np.random.default_rng(SEED)
    counts = free_counts(NODES // scale, FREE // scale, rng)
    sizes = sizes_for(counts, REPLICAS // scale, rng)
    demands = [Demand(f"d{index}", 1, size) for index, size in enumerate(sizes)]
    cases: dict[str, Any] = {}
    solvers = {"pack": None, "topology": None, "optimal": solver_name()}
    if solver_name() != "HiGHS":
        solvers["optimal "] = "HiGHS"
    for policy, solver in solvers.items():
        seconds, walls = [], []
        for _ in range(3):
            ledger = cluster(counts, policy.strip(), np.random.default_rng(SEED + 1))
            gc.collect()
            start, wall = time.process_time(), time.perf_counter()
            batch = place_all(ledger, demands, solver=solver)
            seconds.append(time.process_time() - start)
            walls.append(time.perf_counter() - wall)
        name = f"{policy.strip()} ({batch.solver})"
        cases[name] = {
            "nodes": len(counts),
            "free_gpus": sum(counts),
            "replicas": len(sizes),
            "seconds_first": seconds[0],  # with the imports and tables that it needs
            "seconds_best": min(seconds),
            "wall_seconds": walls,
            "gpus_placed": batch.gpus,
            "proven": batch.proven,
        }
        print(
            f"{name:20} {len(counts):6} nodes {sum(counts):6} GPUs {len(sizes):6} replicas: "
            f"first {seconds[0]:.2f} s, then {min(seconds):.2f} s, "
            f"{batch.gpus} GPUs placed, proven {batch.proven}"
        )
    return cases


# --- one quote --------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], repeat: int) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def book_of(shape: MachineShape, free: int, tables: Tables) -> NodeBook:
    """A node with those GPUs free (a mask)."""
    book = NodeBook(NodeFacts("n", shape), tables)
    taken = tuple(gpu for gpu in range(shape.count) if not free >> gpu & 1)
    if taken:
        book.reserve("t", book.epoch, Claim(Demand("t", 1, len(taken)), (NodeAssignment(0, "n", taken),)))
    return book


def quotes(quick: bool) -> dict[str, Any]:
    """A quote for a state of the node that was never asked for, of a kind of machine that is known."""
    cases: dict[str, Any] = {}
    rng = np.random.default_rng(SEED)
    for title, shape, size in (
        ("8 GPUs, one fabric, k=4", HGX, 4),
        ("8 GPUs, cube mesh, k=4", MachineShape(preset("dgx1-v100")), 4),
        ("8 GPUs, cube mesh, k=5", MachineShape(preset("dgx1-v100")), 5),
        ("16 GPUs, one fabric, k=8", MachineShape(preset("dgx2")), 8),
        ("16 GPUs, PCIe tree, k=8", MachineShape(preset("pcie", count=16)), 8),
        ("16 GPUs, random mesh, k=8", MachineShape(random_mesh(16, rng)), 8),
    ):
        tables, demand = Tables(), Demand("d", 1, size)
        book_of(shape, (1 << shape.count) - 1, tables).quote(demand)
        table = tables.of(shape, demand.message_bytes)
        seconds = []
        for _ in range(20 if quick else 200):
            free = int(rng.integers(1, 1 << shape.count)) | (1 << size) - 1
            book = book_of(shape, free, tables)
            table._best.clear()  # ask anew every time
            seconds.append(timed(partial(book.quote, demand), 1))
        median = statistics.median(seconds)
        cases[title] = {"seconds_median": median, "seconds_max": max(seconds)}
        print(f"quote, {title:26}: median {median * 1e6:6.0f} us, max {max(seconds) * 1e6:6.0f} us")
    return cases


# --- the first quote --------------------------------------------------------------------------------------------


def random_mesh(count: int, rng: np.random.Generator) -> Machine:
    """GPUs in a PCIe tree of two sockets, half of all pairs joined by one NVLink to three."""
    links = [NvLink(a, b, int(rng.integers(1, 4))) for a, b in combinations(range(count), 2) if rng.random() < 0.5]
    return preset("pcie", gpu="V100", count=count).with_nvlinks(links)


def forget() -> None:
    """Everything that this process has worked out on any machine."""
    for module in (collectives, groups, packing, pairs, rings, set_costs, subsets):
        for made in vars(module).values():
            if hasattr(made, "cache_clear"):
                made.cache_clear()


def cold(quick: bool) -> dict[str, Any]:
    """The first quote of a kind of machine in a process that has seen no machine; then one in a new cluster of it.

    Before both, the machine's pairs are computed from its parts: once for each machine that is read, quoted or not.
    """
    cases: dict[str, Any] = {}
    rng = np.random.default_rng(SEED)
    eights = ("dgx1-p100", "dgx1-v100", "dgx-a100", "hgx-h100", "hgx-h200", "hgx-b200", "pcie", "nvlink-pairs")
    asked = [(name, preset(name), size) for name in eights for size in (4, 5, 8)]
    sixteen = {"dgx2": preset("dgx2"), "pcie 16": preset("pcie", count=16), "bare file 16": bare(16)}
    sixteen |= {f"random mesh 16, {number}": random_mesh(16, rng) for number in (1, 2, 3)}
    asked += [(name, machine, size) for name, machine in sixteen.items() for size in (2, 4, 7, 8, 12, 16)]
    for name, machine, size in asked:
        demand, took = Demand("d", 1, size), []
        for _ in range(3 if quick else 9):
            forget()
            gc.collect()
            shape = MachineShape(replace(machine))
            ask = partial(first_quote, shape, demand)
            times = [timed(work, 1) for work in (lambda shape=shape: shape.machine.pairs.key, ask, ask)]
            took.append(times)
        read, first, again = (statistics.median(each) for each in zip(*took, strict=True))
        cases[f"{name}, k={size}"] = {
            "pairs_seconds": read,
            "seconds_first": first,
            "seconds_first_max": max(times[1] for times in took),
            "seconds_new_cluster": again,
        }
        print(
            f"cold quote, {name:18} k={size:2}: pairs {read * 1e3:5.2f} ms, first quote {first * 1e3:6.2f} ms, "
            f"first of another cluster {again * 1e3:5.2f} ms"
        )
    return cases


def first_quote(shape: MachineShape, demand: Demand) -> Any:
    """Of a node of a cluster of its own."""
    return book_of(shape, (1 << shape.count) - 1, Tables()).quote(demand)


def bare(count: int) -> Machine:
    """GPUs of which a topology file says no more than that they are there, below one CPU."""
    devices = "".join(
        f'<pci busid="0000:{bus:02x}:00.0" class="0x030200"><gpu dev="{bus}" sm="80"/></pci>' for bus in range(count)
    )
    return read_nccl_xml(f'<system version="1"><cpu numaid="-1">{devices}</cpu></system>')


# --- the device plugin's search ---------------------------------------------------------------------------------

# getGPUPairScore: by the common ancestor, and a hundred for each NVLink between the two.
PCIE_SCORES = {PathClass.SYS: 10, PathClass.PHB: 30, PathClass.PXB: 40, PathClass.PIX: 50}


def pair_scores(shape: MachineShape) -> list[list[int]]:
    """The score of every two GPUs. Links to NVSwitches count nothing there: it looks for GPUs at their other ends."""
    machine = shape.machine
    direct = {(link.a, link.b): link.count for link in machine.nvlinks}
    plain = machine.with_nvlinks()
    scores = [[0] * shape.count for _ in range(shape.count)]
    for a, b in combinations(range(shape.count), 2):
        score = PCIE_SCORES.get(plain.path(a, b), 10) + 100 * direct.get((a, b), 0)
        scores[a][b] = scores[b][a] = score
    return scores


def partitions(gpus: list[int], size: int, padding: int) -> Iterator[list[list[int]]]:
    """iterateGPUPartitions: every way to split the GPUs into sets of `size`, each led by the first that is left.

    Padding (-1) fills up the last set; a set has all of it or none.
    """
    if len(gpus) == size:
        yield [gpus]
        return
    first, rest = gpus[0], gpus[1:]
    for others in combinations(range(len(rest)), size - 1):
        group = [first, *(rest[index] for index in others)]
        if group.count(-1) not in (0, padding):
            continue
        chosen = set(others)
        left = [gpu for index, gpu in enumerate(rest) if index not in chosen]
        for partition in partitions(left, size, padding):
            yield [group, *partition]


def pair_partition(scores: list[list[int]], free: list[int], size: int) -> list[int]:
    """Allocate, with nothing required: the best set of the best partition; the first of equals."""

    def set_score(group: list[int]) -> int:
        return sum(scores[a][b] for a, b in combinations(group, 2) if a >= 0 and b >= 0)

    padding = -len(free) % size
    best = max(
        partitions([*free, *([-1] * padding)], size, padding), key=lambda partition: sum(map(set_score, partition))
    )
    return [gpu for gpu in max(best, key=set_score) if gpu >= 0]


def ratios(quick: bool) -> dict[str, Any]:
    """Both searches on the same nodes, and what a collective costs on what each of them takes."""
    cases: dict[str, Any] = {}
    for name, count, size in (
        ("dgx1-v100", 8, 2),
        ("dgx1-v100", 8, 4),
        ("dgx1-v100", 8, 5),
        ("hgx-h100", 8, 2),
        ("dgx2", 10 if quick else 12, 2),
        ("dgx2", 12 if quick else 14, 4),
    ):
        shape = MachineShape(preset(name, count=count))
        scores, demand, free = pair_scores(shape), Demand("d", 1, size), list(range(shape.count))
        theirs_s = timed(partial(pair_partition, scores, free, size), 1 if count > 8 else 5)
        theirs = tuple(pair_partition(scores, free, size))
        tables = Tables()
        book = book_of(shape, (1 << count) - 1, tables)
        book.quote(demand)
        table = tables.of(shape, demand.message_bytes)

        def ask(book: NodeBook = book, table: Any = table, demand: Demand = demand) -> Any:
            table._best.clear()
            return book.quote(demand)

        ours_s, ours = timed(ask, 50), ask().places[0].gpus
        costs = [shape.set_cost(tuple(sorted(gpus)), demand.message_bytes) for gpus in (theirs, ours)]
        title = f"{name} {count} GPUs k={size}"
        cases[title] = {
            "pair_partition_seconds": theirs_s,
            "quote_seconds": ours_s,
            "ratio": theirs_s / ours_s,
            "pair_partition_gpus": sorted(theirs),
            "quote_gpus": list(ours),
            "pair_partition_all_reduce_s": costs[0],
            "quote_all_reduce_s": costs[1],
        }
        print(
            f"{title:22}: pair-score partitions {theirs_s * 1e3:9.2f} ms, quote {ours_s * 1e6:5.0f} us, "
            f"ratio {theirs_s / ours_s:9.0f}; all-reduce {costs[0] * 1e6:6.1f} us on {sorted(theirs)}, "
            f"{costs[1] * 1e6:6.1f} us on {list(ours)}"
        )
    return cases


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the cluster")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = {
        "batches": batches(options.quick),
        "quotes": quotes(options.quick),
        "cold": cold(options.quick),
        "ratios": ratios(options.quick),
    }
    if options.json:
        about.write(options.json, "placement", cases, SEED)


if __name__ == "__main__":
    main()
