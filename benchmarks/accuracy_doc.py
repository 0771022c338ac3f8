"""docs/accuracy.md, written from what accuracy.py and silicon_constants.py have measured.

python benchmarks/accuracy_doc.py [--results DIR] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import about

RESULTS, OUT = about.ROOT / "benchmarks" / "results", about.ROOT / "docs" / "accuracy.md"
STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def provenance(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    said = ", ".join(f"{name} {of}" for name, of in versions.items())
    return f"Commit {found['commit']}, seed {found['seed']}; {machine['processor']}, {machine['cores']} cores; {said}."


def replays(found: dict[str, Any]) -> list[str]:
    parts = []
    for name, figures in found["runs"].items():
        facts = found["facts"][name]
        rows = []
        for metric in ("ttft", "tpot", "e2e"):
            cells = [
                f"{part['real']:,.1f} / {part['sim']:,.1f} ({part['error_pct']:+.1f} %)"
                for part in (figures[metric][of] for of in STATISTICS)
            ]
            rows.append([metric.upper(), *cells, f"{figures[metric]['per_request']['median_abs_error_pct']:.1f} %"])
        head = ["real / simulated (ms)", *STATISTICS, "median per request"]
        kind = "" if "(" in name else " with its measured kernels"
        parts += [
            f"### {name}{kind}",
            table(head, rows),
            f"{facts['requests']} requests, {facts['kv_blocks']:,} KV blocks, {facts['preemptions_sim']} preemptions; "
            f"{facts['prefix_hits_sim']:,} prompt tokens found in the cache; {facts['x_real_time']:,.0f} times as fast "
            "as the real run (CPU time of one core).",
        ]
        if name in found["published_pct"]:
            theirs = ", ".join(
                f"{metric.upper()} {mean:+.1f} / {p99:+.1f} %"
                for metric, (mean, p99) in found["published_pct"][name].items()
            )
            parts.append(f"LLMServingSim 2.0, by its own page, mean / p99: {theirs}.")
    return parts


def searched(found: dict[str, Any]) -> list[str]:
    """What each part of the replay brings, and the line search."""
    parts = []
    titles = {"part": "What each part brings", "host_us": "Host overhead per step beyond the largest CUDA graph (us)"}
    for key, title in titles.items():
        rows = found["parts" if key == "part" else "fit"]
        if rows:
            columns = [name for name in rows[0] if name != key]
            cells = [[f"{row[key]}", *(f"{row[name]:.2f} %" for name in columns)] for row in rows]
            parts.append(table([title, *columns], cells))
    return parts


def tightest(tried: dict[str, Any], bound: str) -> dict[str, Any]:
    """The tightest limit of that kind that the stamps of a run give."""
    found: list[dict[str, Any]] = [of[bound] for of in tried["limits"].values() if of[bound] is not None]
    return min(found, key=lambda of: float(of["ms"]))


def host_time(found: dict[str, Any]) -> list[str]:
    """Other places for the host's time, and single steps beside their kernels."""
    if "host_time" not in found:
        return []
    tried = found["host_time"]
    means = {form["form"]: form["best"]["all"]["mean_pct"] for form in tried["forms"]}
    step, first, preparing = (tightest(tried, bound) for bound in ("step", "first token", "preparing"))
    said = STAMPS.format(
        tried=len(means),
        nearer=sum(mean < means[tried["in_use"]] for mean in means.values()),
        steps=step["steps"],
        step=step["ms"],
        first=first["ms"],
        preparing=preparing["ms"],
    )
    head = ["One time of the host", *(f"best for the {run} alone: there; on the other" for run in tried["limits"])]
    forms = table([*head, "best for both (as good)", "largest", "stamps allow"], tried_forms(tried))
    return ["### Where the host's time may go", HOST, forms, said, banded(found["steps"]), STEPS]


def tried_forms(tried: dict[str, Any]) -> list[list[str]]:
    """A row for each form."""
    rows = []
    for form in tried["forms"]:
        best, both, (low, high) = form["best"], form["best"]["all"], form["as_good_us"]
        alone = [
            f"{best[run]['host_us']:,.0f} us: {best[run]['mean_pct']:.2f} %; "
            + ", ".join(f"{error:.2f} %" for error in form["left_out_pct"][run].values())
            for run in tried["limits"]
        ]
        rows.append(
            [
                form["form"] + (" (in use)" if form["form"] == tried["in_use"] else ""),
                *alone,
                f"{both['host_us']:,.0f} us ({low:,.0f} to {high:,.0f}): {both['mean_pct']:.2f} %",
                f"{both['largest_pct']:.2f} %",
                f"{tightest(tried, form['bound'])['ms'] * 1e3:,.0f} us" if form["bound"] else "any",
            ]
        )
    return rows


def banded(steps: dict[str, Any]) -> str:
    """Single steps beside their kernels."""
    by_band = {run: {row["tokens_up_to"]: row for row in rows} for run, rows in steps.items()}
    rows = []
    for band in sorted(set().union(*by_band.values())):
        cells = [f"up to {band:,}" if band else "decode rows alone"]
        for of in by_band.values():
            row = of.get(band)
            said = row and [f"{row['kernels_ms']:.1f} ({row['steps']})", f"{row['longer_ms']:+.1f}"]
            cells += said or ["", ""]
        rows.append(cells)
    head = [name for run in steps for name in (f"{run}: kernels, ms (steps)", "longer, ms")]
    return table(["Tokens of a step with a prompt", *head], rows)


def silicon(found: dict[str, Any]) -> list[str]:
    of = found["silicon"]
    if not of or of.get("overall") is None:
        return ["Not measured: aiconfigurator-core is not installed."]
    rows = [
        [
            name,
            str(group["points"]),
            f"{group['tpot_median_abs_pct']:.1f} % ({group['tpot_median_pct']:+.1f})",
            f"{group['ttft_median_abs_pct']:.1f} % ({group['ttft_median_pct']:+.1f})",
        ]
        for name, group in of["groups"].items()
    ]
    whole = of["overall"]
    rows.append(
        ["all", str(whole["points"]), f"{whole['tpot_median_abs_pct']:.1f} %", f"{whole['ttft_median_abs_pct']:.1f} %"]
    )
    missing = "\n".join(f"* {count} x {reason}" for reason, count in of["unmodelled"].items())
    head = ["GPU, model, engine, precision", "points", "TPOT: median error (bias)", "TTFT: median error (bias)"]
    return [table(head, rows), f"{of['asked']} points on one GPU; not modelled:\n\n{missing}"]


def constants(found: dict[str, Any]) -> str:
    rows = []
    for name, groups in found["cases"].items():
        kinds = [groups[kind] for kind in ("decode", "prefill", "all")]
        cells = [f"{of['median_abs_pct']:.1f} % ({of['bias_pct']:+.1f})" for of in kinds]
        rows.append([name, str(groups["all"]["steps"]), *cells, f"{groups['all']['p90_abs_pct']:.1f} %"])
    return table(["GPU", "steps", "decode: median (bias)", "prefill: median (bias)", "all: median (bias)", "p90"], rows)


RUNS = """\
vLLM 0.19, Llama-3.1-8B, 300 ShareGPT requests at about 10 a second (casys-kaist/LLMServingSim, MIT), replayed with the
engine's own settings. The time of a step is put together from kernels measured on the same GPU. Prompts are turns of
conversations and begin like earlier ones. Which, the records do not say; it was found out from the authors' published
workload and logs (`benchmarks/data/sharegpt_300_turns.csv`): {found:,} prompt tokens are found in the cache of the RTX
PRO 6000 here, {hits:,} of {prompts:,} in the authors' simulator, which has the prompts.

The only numbers fitted to the runs are {host:.0f} us of host overhead per step beyond the largest CUDA graph (the best
of the line search below) and {front:.0f} us of front end per request (the usual distance from arrival to an idle
engine), the same for both GPUs. An engine that schedules one step ahead hides its host where a step is launched as CUDA
graphs. vLLM captures them up to twice the seats and at most 512 tokens, and launches the kernels of larger steps one by
one: which steps have the overhead follows from the engine's settings. Mean absolute error over TTFT, TPOT, E2E x mean,
p50, p90, p95, p99 of both runs: **{mean}**, largest **{largest}**."""
HOST = """\
Other places for one time of the host were tried on the two runs (`benchmarks/host_time.py`). Each was fitted to one run
alone and held against the other, which knew nothing of it, and fitted to both. The last column is what the stamps of
the runs leave for it, whatever its form."""
STAMPS = """\
{nearer} forms come nearer than the one in use, and all of them lengthen steps that were not longer: {steps} steps in a
row took {step:.1f} ms each; a first token came {first:.1f} ms after its request was scheduled, and another one
{preparing:.1f} ms after it but for the kernels of its prompt. Of the forms that the stamps allow none is better, and in
each of them the RTX 4090 alone asks for no time at all: the constant is that of the RTX PRO 6000. It was one of {tried}
to choose from, with these runs in view: what it is worth elsewhere is what one run's constant is worth on the other.

Nor is it the host's. Stamps set single steps apart (`benchmarks/recorded_steps.py`): how much longer they took than
their kernels, the median over bands as wide as a GEMM's tile."""
STEPS = """\
Decode steps of the RTX PRO 6000 take the time of their kernels. Its steps with a prompt take longer, by several times
as much in some bands as in the next, as if its run had computed its GEMMs otherwise than its profile, where those bands
stand out as fast for their size; on the RTX 4090 such steps scatter around their kernels. An overhead per step can meet
the mean of that and not more, and a table of these bands would be fitted to the run."""
LEFT = """\
Decode batches of some dozens of rows and very unequal contexts take longer on the RTX PRO 6000 than its
profile says, which was measured without CUDA graphs. The first request of a run also waited longer for its first token
than its kernels take ({late}: lazy loading)."""
POINTS = """\
`silicon` (kernel tables of aiconfigurator-core) against the end-to-end points of the same package: aggregated serving
on one H100, H200 or B200 in vLLM or SGLang, as a closed loop with fixed lengths and the default overheads, whose users
start one after another. The FP8 rows of vLLM are given an FP8 KV cache, as their checkpoints ask for; the rows do not
say. Whether prompts repeated each other, and how a run began, is not known: TTFT hangs on both, and the vLLM rows of
100 output tokens are faster than the measured GEMMs can compute their prompts."""
TABLE = """\
Relative error of `roofline` against steps put together from measured kernels, over models, precisions, batches,
contexts and prompts (`benchmarks/silicon_constants.py`)."""


def document(results: Path) -> str:
    found = json.loads((results / "accuracy.json").read_text(encoding="utf-8"))
    fitted = json.loads((results / "silicon_constants.json").read_text(encoding="utf-8"))
    mean, over, known = found["mean_abs_error_pct"], found["overheads_us"], found["published_prefix_hits"]
    hits = [facts["prefix_hits_sim"] for gpu, facts in found["facts"].items() if gpu == "RTX PRO 6000"]
    runs = RUNS.format(
        host=over["host_overhead_us"],
        front=over["frontend_overhead_us"],
        mean="not measured" if mean is None else f"{mean:.2f} %",
        largest="not measured" if mean is None else f"{found['largest_abs_error_pct']:.2f} %",
        found=sum(hits),
        hits=known["hits"],
        prompts=known["prompts"],
    )
    first = {gpu: facts["first_ttft_ms"] for gpu, facts in found["facts"].items() if "(" not in gpu}
    late = ", ".join(f"{of['real']:,.0f} ms for {of['sim']:,.0f} on the {gpu}" for gpu, of in first.items())
    left = LEFT.format(late=late)
    parts = [
        "# How far simulations are from measured runs",
        "Written by `benchmarks/accuracy_doc.py` from `benchmarks/results`.",
        provenance(found),
        "## Two real vLLM runs",
        runs,
        *replays(found),
        *searched(found),
        *host_time(found),
        "### What is left",
        left,
        "## Measured points on data-centre GPUs",
        POINTS,
        *silicon(found),
        "## Constants of the roofline",
        TABLE,
        constants(fitted),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.write_text(document(options.results), encoding="utf-8")
    print(f"{options.out}: written from {options.results}")


if __name__ == "__main__":
    main()
