"""A report for people to read, as plain text and as HTML; every number shown comes from `summary`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from rakka_sim.report.measures import limits

if TYPE_CHECKING:
    from rakka_sim.report.report import Report

Row = Sequence[str]

ROWS = {"TTFT": "ttft_ms", "TPOT": "tpot_ms", "ITL": "itl_ms", "E2E": "e2e_ms"}
COLUMNS = ("mean", "p50", "p90", "p99")
NOTHING = "-"


def number(value: float | None) -> str:
    """Four significant digits or all of a larger number, thousands apart."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """A share (0..1) as per cent."""
    return NOTHING if share is None else f"{100 * share:.2f} %"


def headline(summary: dict[str, Any]) -> dict[str, float | None]:
    """The main numbers of a summary in one flat dict, named with their units."""
    latencies = {f"{name}_ms {of}": summary[key][of] for name, key in ROWS.items() for of in ("mean", "p50", "p99")}
    return {
        **{name: summary[name] for name in ("requests", "completed", "failed")},
        **latencies,
        **{name: summary[name] for name in ("goodput_rps", "requests_per_s", "output_tokens_per_s", "preemptions")},
        "slo_attainment": (summary["slo"] or {}).get("attainment"),
        "kv_usage mean": summary["kv_usage"]["mean"],
        "kv_usage max": summary["kv_usage"]["max"],
        "prefix_hit_rate": summary["prefix_hit_rate"],
        "usd": summary["cost"]["usd"],
        "usd_per_million_output_tokens": summary["cost"]["usd_per_million_output_tokens"],
        "simulated_s": summary["simulated_s"],
        "wall_s": summary.get("wall_s"),
    }


def title(report: Report) -> str:
    """The run in one line."""
    of = report.summary()
    wall = "" if of["wall_s"] is None else f" in {number(float(of['wall_s']))} s of wall time"
    return f"{report.name}: {of['mode']}, seed {of['seed']}, {number(of['simulated_s'])} s{wall}"


def latencies(summary: dict[str, Any]) -> list[Row]:
    """The table of latencies, its head first."""
    rows = [[f"{label} (ms)", *(number(summary[key][of]) for of in COLUMNS)] for label, key in ROWS.items()]
    return [["", *COLUMNS], *rows]


def deployments(summary: dict[str, Any]) -> list[Row]:
    """One line a deployment, its head first; empty where there is only one."""
    parts = summary["deployments"]
    if len(parts) < 2:
        return []
    head = ["deployment", "requests", "failed", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "out tok/s", "goodput"]
    rows = []
    for name, of in parts.items():
        tails = [number(of[key][p]) for key in ("ttft_ms", "tpot_ms") for p in ("p50", "p99")]
        rates = [number(of[key]) for key in ("output_tokens_per_s", "goodput_rps")]
        rows.append([name, number(of["requests"]), number(of["failed"]), *tails, *rates])
    return [head, *rows]


def facts(report: Report) -> list[tuple[str, str]]:
    """What is not a latency: label and text; an empty label goes on with the one above."""
    of = report.summary()
    money = of["cost"]
    why = ", ".join(f"{name} {count:,}" for name, count in of["outcomes"].items())
    rows = [
        ("requests", f"{of['requests']:,} ({of['completed']:,} completed, {of['failed']:,} failed: {why or 'none'})"),
        ("goodput", _goodput(report)),
        (
            "throughput",
            f"{number(of['requests_per_s'])} req/s, {number(of['output_tokens_per_s'])} output tokens/s, "
            f"{number(of['tokens_per_s'])} tokens/s with prompts",
        ),
        ("preemptions", number(of["preemptions"])),
        ("KV use", f"mean {percent(of['kv_usage']['mean'])}, max {percent(of['kv_usage']['max'])}"),
        ("prefix hits", f"{percent(of['prefix_hit_rate'])} of prompt tokens"),
        (
            "cost",
            f"{number(money['gpu_hours'])} GPU-hours, {number(money['usd'])} USD, "
            f"{number(money['usd_per_million_output_tokens'])} USD per 1M output tokens",
        ),
    ]
    rows += [("start-up" if place == 0 else "", line) for place, line in enumerate(_startups(of))]
    lines = [*_kv_blocks(of), *_lines(report.facts.get("kv"))]
    rows += [("KV blocks" if place == 0 else "", line) for place, line in enumerate(lines)]
    steps = [_scale_line(step) for step in report.facts.get("scale", ())]
    rows += [("scale" if place == 0 else "", line) for place, line in enumerate(steps)]
    return [*rows, ("digest", report.digest)]


def table(report: Report) -> str:
    """The report as plain text, in columns."""
    of = report.summary()
    blocks = [title(report), columns(latencies(of))]
    width = max(len(label) for label, _ in facts(report))
    blocks.append("\n".join(f"{label:<{width}}  {line}".rstrip() for label, line in facts(report)))
    if len(of["deployments"]) > 1:
        blocks.append(columns(deployments(of)))
    return "\n\n".join(blocks)


def html(report: Report) -> str:
    """The report as a fragment of HTML with its latency figure inside; every text is escaped."""
    of = report.summary()
    rows = "".join(f"<tr><th>{escape(label)}</th><td>{escape(line)}</td></tr>" for label, line in facts(report))
    return (
        f'<div class="rakka-report"><h4>{escape(title(report))}</h4>'
        f"{_html_table(latencies(of))}<table>{_LEFT}{rows}</table>{_html_table(deployments(of))}{_picture(report)}</div>"
    )


_LEFT = "<style>.rakka-report th, .rakka-report td {text-align: left}</style>"


def _goodput(report: Report) -> str:
    of = report.summary()
    if of["slo"] is None:
        return f"{NOTHING} (no objectives given)"
    within = ", ".join(
        f"{name.removesuffix('_ms').upper()} <= {limit:g} ms" for name, limit in limits(report.slo).items()
    )
    return f"{number(of['goodput_rps'])} req/s under {of['slo']['name']} ({within}): {percent(of['slo']['attainment'])}"


def _scale_line(step: dict[str, Any]) -> str:
    asked = f"{step['deployment']}: {step['replicas']} replicas wanted at {step['at_s']:g} s"
    why = f" ({step['error']})" if step["error"] else ""
    if step["answered_s"] is None:
        return f"{asked}; not reached before the end"
    if step["ready"] is None:
        return f"{asked}; refused{why}"
    return f"{asked}; {step['ready']} of {step['wanted']} ready at {step['answered_s']:.4g} s{why}"


def _kv_blocks(summary: dict[str, Any]) -> list[str]:
    """Replicas of one deployment with the same blocks share a line."""
    alike: dict[tuple[str, str, int, int], int] = {}
    for of in summary["replicas"]:
        if of["kv_blocks"]:
            key = (of["deployment"], of["gpu"], of["kv_blocks"], of["block_size"])
            alike[key] = alike.get(key, 0) + 1
    return [
        f"{name}: {count} x {blocks:,} blocks of {size} tokens" + (f" on {gpu}" if gpu else "")
        for (name, gpu, blocks, size), count in alike.items()
    ]


def _startups(summary: dict[str, Any]) -> list[str]:
    """How long replicas took to come up, a line a deployment; none where that took no time."""
    lines = []
    for name in dict.fromkeys(each["deployment"] for each in summary["replicas"]):
        of = [each for each in summary["replicas"] if each["deployment"] == name and each["starts"]]
        whole, loading = ([each[key] for each in of] for key in ("startup_s", "loading_s"))
        if any(whole):
            again = sum(each["starts"] - 1 for each in of)
            lines.append(
                f"{name}: {_range(whole)} s, of that {_range(loading)} s loading weights"
                + (f"; {again} more in the run" if again else "")
            )
    return lines


def _range(values: list[float]) -> str:
    first, last = number(min(values)), number(max(values))
    return first if first == last else f"{first} to {last}"


def _lines(given: Any) -> list[str]:
    if given is None:
        return []
    return given.splitlines() if isinstance(given, str) else [str(line) for line in given]


def columns(rows: list[Row]) -> str:
    """Rows as plain text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *rest]))
    return "\n".join(lines)


def _html_table(rows: list[Row]) -> str:
    if not rows:
        return ""
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body)
    return f"<table><tr>{cells}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _picture(report: Report) -> str:
    if not report.summary()["completed"]:
        return ""
    png = io.BytesIO()
    report.plot.latency().savefig(png, format="png", dpi=80)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img alt="latency distributions" src="data:image/png;base64,{data}">'
