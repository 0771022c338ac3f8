"""How long questions to a topology take: the best of all sets of k GPUs of a machine, new to the process and known.

Prints a table; `--json FILE` writes it, `--quick` asks fewer machines. A machine's answers are kept by what it is, so
"known" is what every node but the first of its kind costs. Times are the best of five (known), or of one (new).
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import about

from rakka_sim.hardware.nccl_write import write_nccl_xml
from rakka_sim.hardware.nccl_xml import read_nccl_xml
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topology import Machine

SIZE = 4 << 20  # bytes of one all-reduce
QUICK = ("hgx-h100", "dgx1-v100")
MACHINES = ("hgx-h100", "dgx1-v100", "pcie", "nvlink-pairs", "dgx2")


def cheapest(machine: Machine, k: int) -> tuple[int, ...]:
    """The set of k GPUs whose all-reduce takes the least time, by asking of each."""
    return min(combinations(range(machine.count), k), key=lambda gpus: machine.all_reduce_s(gpus, SIZE))


def timed(machine: Machine, k: int) -> float:
    """Seconds of one search."""
    start = time.perf_counter()
    cheapest(machine, k)
    return time.perf_counter() - start


def measure(name: str) -> list[dict[str, Any]]:
    """A row for each size of set."""
    machine, rows = preset(name), []
    for k in (2, 4, 8):
        new = timed(machine, k)
        known = min(timed(machine, k) for _ in range(5))
        rows.append({"machine": name, "gpus": machine.count, "k": k, "sets": comb(machine.count, k),
                     "new_ms": new * 1e3, "known_us": known * 1e6, "best": list(cheapest(machine, k))})  # fmt: skip
    return rows


def reading(name: str) -> dict[str, Any]:
    """Writing a machine as an NCCL file, reading it, and computing its pairs."""
    machine = preset(name)
    start = time.perf_counter()
    text = write_nccl_xml(machine)
    written = time.perf_counter()
    read_nccl_xml(text).key  # noqa: B018
    return {"machine": name, "write_ms": (written - start) * 1e3, "read_ms": (time.perf_counter() - written) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="two machines only")
    options = parser.parse_args()
    import scipy.optimize  # noqa: F401  (its import is not what is measured)

    names = QUICK if options.quick else MACHINES
    rows = [row for name in names for row in measure(name)]
    print(f"{'machine':<14}{'GPUs':>5}{'k':>4}{'sets':>8}{'new':>12}{'known':>12}   cheapest set")
    for row in rows:
        sizes = f"{row['gpus']:>5}{row['k']:>4}{row['sets']:>8,}"
        print(f"{row['machine']:<14}{sizes}{row['new_ms']:>9.2f} ms{row['known_us']:>9.0f} us   {row['best']}")
    files = [reading(name) for name in names]
    for row in files:
        print(f"{row['machine']:<14} NCCL file: written in {row['write_ms']:.2f} ms, read in {row['read_ms']:.2f} ms")
    if options.json:
        about.write(options.json, "topology", {"sets": rows, "files": files}, seed=0)


if __name__ == "__main__":
    main()
