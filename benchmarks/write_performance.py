"""Writes docs/performance.md from the figures that `simulate.py` and `where_time_goes.py` left in benchmarks/results.

    python benchmarks/write_performance.py [--results FOLDER] [--out FILE]

No figure is typed here: each comes from a file, with the machine and the commit that it was measured on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import about

WHAT = {
    "azure_conv_4": "Azure 2023 conversations, 4 replicas",
    "azure_conv_8": "Azure 2023 conversations, 8 replicas",
    "poisson_8": "Poisson chat, 8 replicas",
    "poisson_64": "Poisson chat, 64 replicas",
    "poisson_256_1m": "Poisson chat, 256 replicas, streamed",
    "mooncake_prefix": "Mooncake conversations, prefix reuse, 8 replicas",
}

INTRODUCTION = """\
# How fast it simulates

Written by `benchmarks/write_performance.py` from `benchmarks/results`; `make bench` measures and writes anew.

One core. Wall time is that of `rakka_sim.run`, from the scenario to the checked report, imports excluded; memory is the
most that the process ever held, the summary included. Replicas are Llama-3.1-8B on one H200 each, with the roofline
model, prefix caching on, and an event log that keeps every request, step and token.
"""

PLAIN = """\
The same source runs as it is, or with its hot modules compiled to C extensions (`RAKKA_SIM_COMPILE=1 pip install .`;
`setup.py` says how and which). Both give the same digests. As it is:
"""

TRIED = """\
## What makes it fast

* **Runs of steps.** Decode steps that are sure to be alike are one plan, one job, one row of the log. Whatever
  happens meanwhile cuts the run at its next boundary, and a fault leaves the steps that had ended before it. Property
  tests hold runs against single steps, to the last bit of every record, under arrivals, cancels, preemption, prefix
  reuse and faults.
* **Tokens by reference.** A token's time is the end of the step that made it. The log keeps each step's end once and,
  of a request, which steps brought its tokens: one stretch, unless it was preempted. Times are written out when
  somebody asks. Gaps between tokens are counted, not listed: a step that a batch shares is one gap, so many times.
* **One word per request.** Where nobody reads the tokens one by one (`stream = false`, as in every workload), the
  engine delivers them once. An engine that dies delivers first what it has kept back.
* **The KV cache by portions and spans.** The queue of free blocks holds lists as they were freed, so taking is
  slicing; the prefix index knows spans of content, not single blocks, so a sequence is registered, found and
  forgotten as a whole. A run takes its blocks in one go, in the order in which single steps would have taken them, and
  notes them by lane (who takes at the same step of a cycle); they are dealt to tables, and keys registered, when
  somebody comes, leaves or looks. Whether a block that is found is held is asked of the tables of its span.
* **Who decodes moves with one beat.** A sequence that decodes has computed its lead plus a count that all of an engine
  share. Nothing is done to it per step or run; sums, the nearest end and who takes a block next are kept as it comes
  and goes. Rows of such sequences are written out only when somebody looks. On many
  replicas a batch is cold in the processor's caches, and looking at each of its sequences is mostly waiting.
* **Routing without looking around.** The ranks of replicas are kept as loads change; a choice among many costs about
  what one among a few does.
* **Steps go to the context itself.** A context keeps its address when it is rebuilt, so plans need not pass through
  the worker that stands over it.
* **Compiled, not rewritten.** No hot spot is left, only calls; so the modules that make most of them can be compiled as
  they are, by mypyc (`setup.py`).
* **Few numbers one by one.** Most runs have about ten steps, and numpy takes longer to make a vector of ten than to
  compute with it: up to 16 steps are timed and added up number by number, to the same last bit.
* **Fewer collections.** A run makes hardly any cycles, so the garbage collector is asked to look less often while it
  lasts. Turning it off altogether was tried and dropped: a user's own cycles would stay.
* **What a log of a million costs.** Ends of steps grow in a numpy column that readers see without a copy; how many rows
  take a block at a step is a byte; of request ids, only those ahead of a gap are kept; the summary squares in place.

## What is not done, or no more

* Freezing what is there before a run (`gc.freeze`), or collecting even less often: collections take 1 to 2.5 % of a run
  as it is, on 8 and on 256 replicas.
* Sums over lists of decode rows instead of kept ones: less code, and as fast where a replica has a row or two, but each
  pass over a batch of a dozen costs more on 256 replicas than on 8.
* Compiling messages as well: a compiled dataclass is made no faster than a plain one.
* Load reports on demand instead of one after every pass: routing would see other loads, and so be another policy.
* Dropping the messages between engine, context and coordinator: they are the topology that is simulated.
* Every token's time as a column of the log, as it was before: eight bytes a token are more than all the rest of a
  long run.
* Checking and summing up all steps of all replicas at once, as it was before: they are now looked at one replica
  after the other, and by runs where a run is enough.
"""


def table(cases: dict[str, Any]) -> list[str]:
    rows = [
        "| case | requests | requests/s | x real time | engine steps/s | us per request | wall s | CPU s | peak MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, case in cases.items():
        rows.append(
            f"| {WHAT.get(name, name)} (`{name}`) | {case['requests']:,d} | {case['requests_per_s']:,.0f} "
            f"| {case['x_real_time']:,.0f} | {case['steps_per_s']:,.0f} | {case['us_per_request']:,.0f} "
            f"| {case['wall_s']:,.1f} | {case['cpu_s']:,.1f} | {case['peak_mib']:,.0f} |"
        )
    return rows


def plain(found: dict[str, Any], compiled: dict[str, Any]) -> list[str]:
    """The same cases without compiling anything, and how much that costs."""
    cases = found["cases"]
    lines = ["", "## Without compiling", "", PLAIN, *table(cases), "", provenance(found), ""]
    times = {name: cases[name]["cpu_s"] / case["cpu_s"] for name, case in compiled.items() if name in cases}
    if times:
        said = ", ".join(f"{more:.2f} (`{name}`)" for name, more in times.items())
        lines.append(f"CPU time plain over compiled: {said}.")
    return lines


def provenance(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    modules = "with its hot modules compiled" if found.get("compiled") else "not compiled"
    return (
        f"Measured {modules}, at commit `{found['commit']}`, seed {found['seed']}, on {machine['processor']} "
        f"({machine['cores']} cores, {machine['memory_gib']} GiB), Python {versions['python']}, "
        f"numpy {versions['numpy']}, simpy {versions['simpy']}. "
        "Where CPU time is far below wall time, others used the core."
    )


def growth(cases: dict[str, Any]) -> list[str]:
    if not {"poisson_8", "poisson_256_1m"} <= cases.keys():
        return []
    small, large = cases["poisson_8"], cases["poisson_256_1m"]
    return [
        "",
        f"At one load per replica, a request costs {large['cpu_s'] / large['requests'] * 1e6:,.0f} us of CPU time on "
        f"{large['replicas']} replicas and {small['cpu_s'] / small['requests'] * 1e6:,.0f} us on {small['replicas']}: "
        f"{large['cpu_s'] / large['requests'] / (small['cpu_s'] / small['requests']):.2f} times as much.",
    ]


def before(found: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The same cases at an earlier commit."""
    lines = [
        "",
        "## Before and after",
        "",
        f"The same cases at commit `{found['commit']}`, where the engine, its records and its routing were as first "
        "written. CPU time, because the two were not measured at the same time.",
        "",
        "| case | CPU us per request before | after | times as fast |",
        "|---|--:|--:|--:|",
    ]
    for name, case in found["cases"].items():
        if name in now:
            then, after = (of["cpu_s"] / of["requests"] * 1e6 for of in (case, now[name]))
            lines.append(f"| `{name}` | {then:,.0f} | {after:,.0f} | {then / after:.1f} |")
    return lines


def shares(found: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Where the time goes",
        "",
        f"cProfile, shares of the time inside a run (commit `{found['commit']}`).",
    ]
    for name, case in found["cases"].items():
        lines += [
            "",
            f"`{name}`, {case['requests']:,d} requests:",
            "",
            "| part | % | function | % |",
            "|---|--:|---|--:|",
        ]
        parts, functions = (list(case[key].items()) for key in ("by_part_pct", "by_function_pct"))
        for row in range(max(len(parts), len(functions))):
            cells = [of[row] if row < len(of) else ("", 0.0) for of in (parts, functions)]
            shown = [f"{key} | {share:.1f}" if key else " | " for key, share in cells]
            lines.append(f"| {shown[0]} | {shown[1].replace('<', '&lt;')} |")
    return lines


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=about.ROOT / "benchmarks" / "results")
    parser.add_argument("--out", type=Path, default=about.ROOT / "docs" / "performance.md")
    options = parser.parse_args()
    names = ("simulate", "simulate_plain", "simulate_before", "where_time_goes")
    files = {name: options.results / f"{name}.json" for name in names}
    found = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    if "simulate" not in found:
        parser.error(f"no {files['simulate']}: run benchmarks/simulate.py --json {files['simulate']}")
    cases = found["simulate"]["cases"]
    lines = [INTRODUCTION, *table(cases), "", provenance(found["simulate"]), *growth(cases)]
    if "simulate_plain" in found:
        lines += plain(found["simulate_plain"], cases)
    if "simulate_before" in found:
        lines += before(found["simulate_before"], cases)
    if "where_time_goes" in found:
        lines += shares(found["where_time_goes"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n\n" + TRIED, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
