"""How far simulations are from measured runs.

    python benchmarks/accuracy.py [--json FILE] [--quick]

First part: two real vLLM 0.19 runs (Llama-3.1-8B, 300 requests, RTX 4090 and RTX PRO 6000), replayed with the engine's
own settings and the kernels measured on the same GPUs (`profile`), and with no data at all (`roofline`). Which prompts
begin alike is in `data/sharegpt_300_turns.csv`. Nothing is fitted to the runs but one overhead per step and one per
request, the same two for both GPUs:

* per step: the value of a line search over both runs with the least mean error. An engine that schedules one step ahead
  hides it where a step is launched as CUDA graphs: it counts for steps of more tokens than the largest graph;
* per request: the usual distance from arrival to being queued in an idle engine, beyond the least one.

What each part of the replay brings is measured as well (`parts`), the line search is done again (`fit`), and other
places for the host's time are tried (`host_time`), each fitted to one run and held against the other; single steps of
the runs are held against their kernels (`steps`). Not with `--quick`.

Second part: end-to-end points measured on data-centre GPUs, which come with aiconfigurator-core, against `silicon` with
the default overheads: those engines are other versions, which schedule after a step and not ahead of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import about
import host_time
import numpy as np
import recorded_runs as recorded
import recorded_steps
import silicon_points

import rakka_sim

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
METRICS = ("ttft", "tpot", "e2e")
# vLLM 0.19 with CUDA graphs and scheduling one step ahead; see above for what they are and how they were obtained.
HOST_OVERHEAD_US = 3500.0
FRONTEND_OVERHEAD_US = 1000.0
FIT_US = (0.0, 500.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0, 3500.0, 4000.0, 5000.0)
PROFILES = {"RTX 4090": "RTX4090-Llama-3.1-8B-bf16-tp1", "RTX PRO 6000": "RTXPRO6000-Llama-3.1-8B-bf16-tp1"}
# LLMServingSim 2.0 on the same runs, per cent (its validation page, 2026).
PUBLISHED = {
    "RTX 4090": {"ttft": (0.6, 0.3), "tpot": (0.2, 0.9), "e2e": (0.5, 0.4)},
    "RTX PRO 6000": {"ttft": (-4.0, -2.0), "tpot": (-1.0, 0.6), "e2e": (-1.8, -1.6)},
}
# What a replay leaves out: prompts that begin alike, scheduling one step ahead, the overhead per step.
PARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lengths alone, each step scheduled after the one before it", {"alike": False, "ahead": False, "host_us": 0.0}),
    ("and prompts that begin alike", {"ahead": False, "host_us": 0.0}),
    ("and scheduling one step ahead", {"host_us": 0.0}),
    ("and an overhead per step beyond the largest CUDA graph", {}),
)
# Its own count of prompt tokens found in the cache on the RTX PRO 6000, from its published log of that run.
PREFIX_HITS = {"hits": 19_520, "prompts": 257_239}


def statistics(values: np.ndarray[Any, Any]) -> dict[str, float]:
    kept = values[~np.isnan(values)]
    return {"mean": float(kept.mean()), **{p: float(np.percentile(kept, int(p[1:]))) for p in STATISTICS[1:]}}


def overheads(host_us: float | None = None) -> dict[str, float]:
    return {
        "host_overhead_us": HOST_OVERHEAD_US if host_us is None else host_us,
        "frontend_overhead_us": FRONTEND_OVERHEAD_US,
    }


def compare(
    run: recorded.Recorded,
    gpu: str,
    time_model: dict[str, Any],
    host_us: float | None = None,
    *,
    alike: bool = True,
    ahead: bool = True,
) -> Any:
    """One run, simulated: metric -> statistic -> real, sim and error; and what else tells how good the replay is."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "requests.jsonl"
        recorded.write_trace(run, recorded.turns() if alike else {}, trace)
        given = recorded.scenario(run, gpu, time_model, overheads(host_us), trace, ahead)
        began = time.process_time()
        report = rakka_sim.run(given, progress=False)
        cpu = time.process_time() - began
    frame = report.requests.sort_values("arrival_s")
    figures: dict[str, Any] = {}
    for name, real in run.latencies.items():
        sim = frame[f"{name}_ms"].to_numpy()
        theirs, ours = statistics(real), statistics(sim)
        figures[name] = {
            of: {"real": theirs[of], "sim": ours[of], "error_pct": (ours[of] / theirs[of] - 1) * 100}
            for of in STATISTICS
        }
        figures[name]["per_request"] = {"median_abs_error_pct": float(np.nanmedian(np.abs(sim / real - 1)) * 100)}
    seen = run.preempted()
    ours_seen = recorded.preempted_in(report, len(seen))
    span = float(run.last_token.max())
    more = {
        "requests": len(frame),
        "kv_blocks": report.log.replicas[0].kv_blocks,
        "first_ttft_ms": {"real": float(run.latencies["ttft"][0]), "sim": float(frame["ttft_ms"].iloc[0])},
        "makespan_s": {"real": span, "sim": float(report.summary()["simulated_s"])},
        "prefix_hits_sim": int(frame["cached_tokens"].sum()),
        "preemptions_sim": int(report.summary()["preemptions"]),
        "preempted_mean": {"real": float(seen.mean()), "sim": float(ours_seen.mean())},
        "preempted_max": {"real": int(seen.max()), "sim": int(ours_seen.max())},
        "wall_s": report.wall_s,
        "cpu_s": cpu,
        "x_real_time": span / cpu,
    }
    return figures, more


def errors(figures: dict[str, Any]) -> list[float]:
    return [abs(figures[name][of]["error_pct"]) for name in METRICS for of in STATISTICS]


def show(gpu: str, kind: str, figures: dict[str, Any], more: dict[str, Any]) -> None:
    print(f"\n{gpu}, {kind}: {more['requests']} requests, {more['kv_blocks']:,} KV blocks; real / sim (ms), error")
    for name in METRICS:
        cells = "".join(
            f"{part['real']:11,.1f}/{part['sim']:9,.1f} {part['error_pct']:+6.2f}%"
            for part in (figures[name][of] for of in STATISTICS)
        )
        print(f"  {name:5s}{cells}  per request {figures[name]['per_request']['median_abs_error_pct']:.2f}%")
    span, found = more["makespan_s"], errors(figures)
    print(
        f"  mean error {np.mean(found):.2f} %, largest {max(found):.2f} %; whole run {span['real']:.1f} / "
        f"{span['sim']:.1f} s; {more['preemptions_sim']} preemptions; {more['prefix_hits_sim']:,} tokens found in the "
        f"cache; {more['x_real_time']:,.0f} x real time (CPU time)"
    )
    if kind == "profile":
        theirs = ", ".join(f"{name} {mean:+.1f}/{p99:+.1f}" for name, (mean, p99) in PUBLISHED[gpu].items())
        print(f"  LLMServingSim 2.0 (mean/p99, %): {theirs}")


def replays(data: Path, quick: bool) -> dict[str, Any]:
    """Both runs, as far as they are there, with both time models."""
    runs: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    found = {gpu: data / "vllm_runs" / folder for gpu, folder in recorded.GPUS.items()}
    real = {gpu: recorded.Recorded.read(folder) for gpu, folder in found.items() if (folder / "meta.json").is_file()}
    for gpu in recorded.GPUS:
        if gpu not in real:
            print(f"{gpu}: skipped, no {found[gpu]}")
    measured = {gpu: {"kind": "profile", "path": str(data / "kernel_profiles" / PROFILES[gpu])} for gpu in real}
    for gpu in list(real)[:1]:
        compare(real[gpu], gpu, measured[gpu])  # the first run of a process imports: it is not the one that is timed
    for kind in ("profile", "roofline"):
        for gpu, run in real.items():
            figures, more = compare(run, gpu, measured[gpu] if kind == "profile" else {"kind": kind})
            show(gpu, kind, figures, more)
            name = gpu if kind == "profile" else f"{gpu} ({kind})"
            runs[name], facts[name] = figures, more
    parts, fit = ([], []) if quick or not real else (PARTS, FIT_US)
    found_parts = [{"part": name, **mean_errors(real, measured, **given)} for name, given in parts]
    found_fit = [{"host_us": us, **mean_errors(real, measured, host_us=us)} for us in fit]
    for row in [*found_parts, *found_fit]:
        print(
            ", ".join(f"{key} {of:.2f} %" if key in (*real, "mean", "largest") else f"{of}" for key, of in row.items())
        )
    tried = {} if quick or not real else host(real, measured, facts)
    return {"runs": runs, "facts": facts, "parts": found_parts, "fit": found_fit, **tried}


def host(
    real: dict[str, recorded.Recorded], measured: dict[str, dict[str, Any]], facts: dict[str, Any]
) -> dict[str, Any]:
    """Every form of the host's time, what the runs' own stamps say of it, and single steps beside their kernels."""

    def replayed(gpu: str) -> list[float]:
        return errors(compare(real[gpu], gpu, measured[gpu], 0.0)[0])

    forms = [host_time.searched(form, tuple(real), replayed) for form in host_time.FORMS]
    for row in forms:
        each = "; ".join(f"{run} {of['host_us']:.0f} us {of['mean_pct']:.2f} %" for run, of in row["best"].items())
        print(f"{row['form']}: {each}; of one on the other {row['left_out_pct']}")
    limits, steps = {}, {}
    for gpu, run in real.items():
        model = host_time.kernels(run, gpu, measured[gpu])
        limits[gpu] = host_time.limits(run, model, facts[gpu]["preemptions_sim"] > 0)
        blocks = recorded.block_ids(run, recorded.turns())
        alone = recorded_steps.lone_steps(run, model, facts[gpu]["kv_blocks"], blocks)
        steps[gpu] = recorded_steps.bands(alone)
        print(f"{gpu}: {limits[gpu]}; {len(alone)} steps")
        for band in steps[gpu]:
            print(
                f"  up to {band['tokens_up_to']:5d} tokens: {band['steps']:3d} steps of {band['kernels_ms']:6.1f} ms, "
                f"{band['longer_ms']:+.1f} ms"
            )
    return {"host_time": {"in_use": host_time.IN_USE, "forms": forms, "limits": limits}, "steps": steps}


def mean_errors(
    real: dict[str, recorded.Recorded], measured: dict[str, dict[str, Any]], **given: Any
) -> dict[str, float]:
    """The mean error of each run, of both, and the largest of all."""
    found = {gpu: errors(compare(run, gpu, measured[gpu], **given)[0]) for gpu, run in real.items()}
    all_of_them = [error for of in found.values() for error in of]
    means = {gpu: float(np.mean(of)) for gpu, of in found.items()}
    return {**means, "mean": float(np.mean(all_of_them)), "largest": max(all_of_them)}


def main() -> None:
    """All parts; the JSON has what `docs/accuracy.md` is made from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=about.recorded_data(), help="folder of the recorded data")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="neither parts nor fit, and every eighth end-to-end point")
    parser.add_argument("--no-silicon", action="store_true", help="the two runs alone")
    options = parser.parse_args()
    found = replays(options.data, options.quick)
    measured = [error for name, run in found["runs"].items() if "(" not in name for error in errors(run)]
    mean = float(np.mean(measured)) if measured else None
    if mean is not None:
        print(
            f"\nmean absolute error over {len(measured)} figures, profile: {mean:.2f} %, largest {max(measured):.2f} %"
        )
    points = {} if options.no_silicon else silicon_points.compare(8 if options.quick else 1)
    if options.json:
        about.write(
            options.json,
            "accuracy",
            None,
            recorded.SEED,
            **found,
            mean_abs_error_pct=mean,
            largest_abs_error_pct=max(measured, default=None),
            overheads_us=overheads(),
            published_pct=PUBLISHED,
            published_prefix_hits=PREFIX_HITS,
            silicon=points,
        )


if __name__ == "__main__":
    main()
