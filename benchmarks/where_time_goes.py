"""Where the time of a run goes: cProfile over two cases of `simulate.py`, by part of the package and by function.

    python benchmarks/where_time_goes.py [--json FILE] [--quick]

cProfile adds its own time to every call, so what makes many small calls looks dearer than it is: shares, not seconds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from collections import Counter
from pathlib import Path
from typing import Any

import about
import simulate

import rakka_sim

PACKAGE = Path(rakka_sim.__file__).parent
# Requests of a case: enough for a profile.
CASES = {"azure_conv_8": 8_000, "poisson_8": 8_000}
FUNCTIONS = 15


def measure(name: str, requests: int) -> dict[str, Any]:
    """Shares (%) of the time inside `rakka_sim.run`."""
    made = simulate.CASES[name](False)
    workload = made["workload"]
    if "trace" in workload:
        workload["trace"]["limit"] = requests
    else:
        workload["requests"] = requests
    profile = cProfile.Profile()
    profile.runcall(rakka_sim.run, made, progress=False)
    rooms: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        room, place = _place(file)
        rooms[room] += own
        functions[f"{place}{function}" if place else function] += own
    total = sum(rooms.values())

    def shares(of: Counter[str], most: int) -> dict[str, float]:
        return {name: 100 * own / total for name, own in of.most_common(most)}

    return {"requests": requests, "by_part_pct": shares(rooms, 20), "by_function_pct": shares(functions, FUNCTIONS)}


def _place(file: str) -> tuple[str, str]:
    """The part of the package that a file belongs to, and how its functions are shown."""
    path = Path(file)
    if path.is_relative_to(PACKAGE):
        inner = path.relative_to(PACKAGE)
        return inner.parts[0].removesuffix(".py"), f"{inner.with_suffix('')}: "
    if file == "<string>":
        return "making values", "a value's "  # the methods that dataclasses write
    return "Python and numpy", ""


def show(name: str, case: dict[str, Any]) -> None:
    print(f"\n{name}, {case['requests']:,d} requests")
    for title, of in (("part", case["by_part_pct"]), ("function", case["by_function_pct"])):
        print(f"  {'% of time':>9s}  {title}")
        for key, share in of.items():
            if share >= 0.5:
                print(f"  {share:9.1f}  {key}")


def main() -> None:
    """Both cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests, to see that it works")
    options = parser.parse_args()
    rakka_sim.run(simulate.scenario(1, simulate.poisson(1, 20)), progress=False)
    cases = {name: measure(name, requests // (10 if options.quick else 1)) for name, requests in CASES.items()}
    for name, case in cases.items():
        show(name, case)
    if options.json:
        about.write(options.json, "where_time_goes", cases, simulate.SEED)


if __name__ == "__main__":
    main()
