"""The CUDA kernels against what the device can do: attention by batch, context and tiling, then all the others, and the
matrix products of cuBLAS between them.

Decode attention is measured in bytes of keys and values a second, prefill in FLOP/s; both as a share of the datasheet
and, for bytes, of what a plain read of memory reaches in the same run. Needs a CUDA device; without one it says so.

A case is recorded into a CUDA graph over as many copies of its pools as do not fit into the L2 cache together, and the
graph's time is taken as the median of its replays. A search goes along one axis at a time from the default tiling; most
of its time is the compiler's (seconds for each tiling), so `--seconds` ends it where it is. Tables are written as soon
as they are there, and `--update` keeps those of the file that are not measured now: `--only` makes slices.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rakka_sim.config.gpus import GpuSpec, gpu

SEED = 0
COLD_BYTES = 256 << 20  # several times the L2 cache of any GPU in the catalogue
MOST_COPIES = 32
HIDDEN, WIDTH, VOCABULARY = 4096, 14336, 128_256  # Llama-3.1-8B
# Outputs and inputs of the matrices of Llama-3.1-8B: fused as the engine has them.
MATRICES = {
    "qkv": (6144, HIDDEN), "out": (HIDDEN, HIDDEN), "gate_up": (2 * WIDTH, HIDDEN), "down": (HIDDEN, WIDTH),
    "head": (VOCABULARY, HIDDEN),
}  # fmt: skip
MATRIX_TOKENS = (1, 8, 64, 256, 2048)
DRAWS = {"greedy": (0, 0, 1), "drawn": (1, 0, 1), "top_k": (1, 50, 1), "top_p": (1, 0, 0.9)}
# PyTorch's names of the catalogue's devices; a variant with another datasheet (PCIe, NVL, a MIG slice) is none of them.
DEVICES = {
    "NVIDIA A40": "A40",
    "NVIDIA A100-SXM4-40GB": "A100-40",
    "NVIDIA A100-SXM4-80GB": "A100-80",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
    "NVIDIA L40S": "L40S",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
}
TABLES = ("linear", "decode", "prefill", "others", "decode_search", "prefill_search")
Call = Callable[[int], object]
Clock = Callable[[Call, int], float]


@dataclass(frozen=True)
class Rows:
    """Equal rows: queries and cached tokens of each, on Llama-3.1-8B's heads, and how its pools are laid out."""

    rows: int
    queries: int
    cached: int
    page: int = 16
    head_first: bool = False
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128

    @property
    def context(self) -> int:
        return self.cached + self.queries

    @property
    def kv_bytes(self) -> int:
        """Keys and values of all contexts, bfloat16."""
        return self.rows * self.context * 2 * self.kv_heads * self.head_dim * 2

    @property
    def flops(self) -> int:
        """Two matrix products over the keys that each query sees."""
        seen = self.queries * self.cached + self.queries * (self.queries + 1) // 2
        return 4 * self.rows * self.heads * self.head_dim * seen

    @property
    def copies(self) -> int:
        return min(MOST_COPIES, -(-COLD_BYTES // self.kv_bytes))


DECODE = [Rows(rows, 1, context - 1) for rows in (1, 8, 16, 64, 128, 256) for context in (512, 1024, 4096, 16_384)]
DECODE = [rows for rows in DECODE if rows.rows * rows.context <= 256 * 4096]
SEARCHED = [Rows(1, 1, 8191), Rows(16, 1, 4095), Rows(64, 1, 1023), Rows(256, 1, 1023)]
PREFILL = [Rows(1, 2048, 0), Rows(1, 8192, 0), Rows(4, 512, 0), Rows(1, 512, 8192)]
DECODE_AXES: dict[str, list[Any]] = {
    "page": [16, 32, 64],
    "head_first": [False, True],
    "tile": [32, 64, 128],
    "segments": [1, 2, 4, 8, 16, 32, 64],
    "stages": [2, 3, 4, 5, 6],
    "warps": [2, 4, 8],
}
PREFILL_AXES: dict[str, list[Any]] = {
    "block_m": [64, 128],
    "tile": [32, 64, 128],
    "stages": [2, 3, 4, 5],
    "warps": [4, 8],
}


def attention(rows: Rows, device: str, cut: Any = None) -> tuple[Call, Any]:
    """A call of the kernel on its i-th copy of the pools, and the tiling that it uses."""
    from rakka_sim.engines.torch.kernels.attention import paged_attention, tiling

    make = torch.Generator(device).manual_seed(SEED)
    bf16 = {"dtype": torch.bfloat16, "device": device, "generator": make}
    pages = -(-rows.context // rows.page)
    shape: tuple[int, ...] = (rows.copies, 2, rows.rows * pages, rows.page, rows.kv_heads, rows.head_dim)
    if rows.head_first:
        pools = torch.randn(*shape[:3], rows.kv_heads, rows.page, rows.head_dim, **bf16).transpose(3, 4)
    else:
        pools = torch.randn(shape, **bf16)
    q = torch.randn(rows.rows * rows.queries, rows.heads, rows.head_dim, **bf16)
    # Pages of a busy engine are anywhere.
    tables = torch.randperm(rows.rows * pages, device=device, generator=make).to(torch.int32).view(rows.rows, pages)
    starts = torch.arange(rows.rows + 1, dtype=torch.int32, device=device) * rows.queries
    contexts = torch.full((rows.rows,), rows.context, dtype=torch.int32, device=device)
    cut = cut or tiling(q, rows.rows, rows.kv_heads, rows.queries)

    def call(copy: int) -> Tensor:
        k_pool, v_pool = pools[copy]
        scale = rows.head_dim**-0.5
        ints = (tables, starts, contexts)
        return paged_attention(q, k_pool, v_pool, *ints, scale=scale, max_query=rows.queries, cut=cut)

    return call, cut


@dataclass(frozen=True)
class Bench:
    """A device, its datasheet if it has one in the catalogue, what a read of its memory reaches, and a clock."""

    device: str
    clock: Clock
    spec: GpuSpec | None
    read_bandwidth: float
    until: float = float("inf")  # of `time.monotonic`: no search goes on after it

    def row(self, name: str, seconds: float, size: int = 0, flops: int = 0) -> dict[str, Any]:
        """One line of a table, printed."""
        figures: dict[str, Any] = {"case": name, "us": seconds * 1e6}
        if size:
            figures |= {"gb_per_s": size / seconds / 1e9, "of_read": size / seconds / self.read_bandwidth}
            figures["of_datasheet"] = size / seconds / self.spec.memory_bandwidth if self.spec else None
        if flops:
            figures["tflop_per_s"] = flops / seconds / 1e12
            figures["of_datasheet"] = flops / seconds / self.spec.bf16_flops if self.spec else None
        shown = "  ".join(f"{key} {value:8.3g}" for key, value in figures.items() if isinstance(value, float))
        print(f"  {name:44s} {shown}", flush=True)
        return figures

    def attend(self, rows: Rows, cut: Any = None) -> tuple[float, Any]:
        """Seconds of one call, and its tiling; infinite where the tiling does not fit the device."""
        from triton.runtime.errors import OutOfResources

        call, cut = attention(rows, self.device, cut)
        try:
            return self.clock(call, rows.copies), cut
        except OutOfResources:
            return float("inf"), cut

    def search(self, rows: Rows, axes: dict[str, list[Any]], rounds: int) -> dict[str, Any]:
        """From the default, the best value of one axis after the other."""
        best, cut = self.attend(rows)
        first, layout = best, rows
        for _ in range(rounds):
            for axis, values in axes.items():
                for value in values:
                    if time.monotonic() > self.until:
                        break
                    varied = layout if axis in ("page", "head_first") else cut
                    if getattr(varied, axis) == value:
                        continue
                    changed = replace(varied, **{axis: value})
                    tried = (changed, cut) if varied is layout else (layout, changed)
                    seconds, _ = self.attend(*tried)
                    if seconds < best:
                        best, (layout, cut) = seconds, tried
        tiled = {**asdict(cut), "page": layout.page, "head_first": layout.head_first}
        print(f"    best {best * 1e6:.1f} us ({first / best:.2f} x the default) with {tiled}", flush=True)
        out_of_time = time.monotonic() > self.until
        return {"default_us": first * 1e6, "best_us": best * 1e6, "tiling": tiled, "out_of_time": out_of_time}


def name_of(rows: Rows) -> str:
    kind = "decode" if rows.queries == 1 else f"{rows.queries} new tokens on {rows.cached}"
    return f"{rows.rows} x {kind}" + (f", context {rows.context}" if rows.queries == 1 else "")


def others(device: str) -> Iterator[tuple[str, int, Call]]:
    """The kernels besides attention: name, bytes that must move, call. All but the sampler write what they read."""
    from rakka_sim.engines.torch import kernels

    bf16 = {"dtype": torch.bfloat16, "device": device}
    weight, angles = torch.ones(HIDDEN, **bf16), torch.randn(8192, 128, device=device)
    pools = [torch.zeros(512, 16, 8, 128, **bf16) for _ in range(2)]
    shape = {"heads": 32, "kv_heads": 8, "head_dim": 128}
    for tokens in (1, 64, 256, 2048):
        x, gate_up = torch.randn(tokens, HIDDEN, **bf16), torch.randn(tokens, 2 * WIDTH, **bf16)
        qkv, at = torch.randn(tokens, 48 * 128, **bf16), torch.arange(tokens, dtype=torch.int32, device=device)
        norm = partial(kernels.rms_norm, x, weight, 1e-5, x.clone())
        yield f"rms_norm + residual, {tokens}", 8 * x.numel(), lambda _, norm=norm: norm()
        yield f"silu_mul, {tokens}", 3 * gate_up.numel(), lambda _, x=gate_up: kernels.silu_mul(x)
        rope = partial(kernels.rope_store, qkv, at, angles, at.long(), *pools, **shape)
        yield f"rope_store, {tokens}", 4 * qkv.numel(), lambda _, rope=rope: rope()
    for rows in (1, 64, 256):
        logits = torch.randn(rows, VOCABULARY, **bf16)
        ints, floats = torch.zeros(rows, dtype=torch.int32, device=device), torch.ones(rows, device=device)
        for kind, (temperature, top_k, top_p) in DRAWS.items():
            sampling = (floats * temperature, ints + top_k, floats * top_p, ints.long(), ints)
            sample = partial(kernels.sample, logits, *sampling)
            yield f"sample, {kind}, {rows}", 2 * logits.numel(), lambda _, sample=sample: sample()


def linears(bench: Bench) -> Iterator[dict[str, Any]]:
    """Matrix products by number of tokens: of few, as bytes of the matrix a second; of many, as FLOP/s."""
    bf16 = {"dtype": torch.bfloat16, "device": bench.device}
    for name, (outputs, inputs) in MATRICES.items():
        size = 2 * outputs * inputs
        matrices = [torch.randn(outputs, inputs, **bf16) for _ in range(min(MOST_COPIES, -(-COLD_BYTES // size)))]
        for tokens in MATRIX_TOKENS:
            x = torch.randn(tokens, inputs, **bf16)

            def call(copy: int, x: Tensor = x, matrices: list[Tensor] = matrices) -> Tensor:
                return torch.nn.functional.linear(x, matrices[copy])

            of = {"flops": tokens * size} if tokens > 256 else {"size": size}
            yield bench.row(f"{name}, {tokens}", bench.clock(call, len(matrices)), **of)


def measure(bench: Bench, quick: bool, only: Collection[str] = TABLES) -> Iterator[tuple[str, Any]]:
    """Table by table, printed and as figures."""
    decode, searched, prefill = (DECODE[::4], SEARCHED[-1:], PREFILL[:1]) if quick else (DECODE, SEARCHED, PREFILL)
    if "linear" in only:
        print("matrix products of cuBLAS")
        yield "linear", list(linears(bench))
    if "decode" in only:
        print("decode attention, default tiling: bytes of keys and values")
        yield "decode", [bench.row(name_of(rows), bench.attend(rows)[0], size=rows.kv_bytes) for rows in decode]
    if "prefill" in only:
        print("prefill attention, default tiling: FLOP of what is seen")
        yield "prefill", [bench.row(name_of(rows), bench.attend(rows)[0], flops=rows.flops) for rows in prefill]
    if "others" in only:
        print("the other kernels")
        yield "others", [bench.row(name, bench.clock(call, 1), size=size) for name, size, call in others(bench.device)]
    for title, cases, axes in (("decode", searched, DECODE_AXES), ("prefill", prefill, PREFILL_AXES)):
        if f"{title}_search" in only:
            print(f"search for a better tiling: {title}")
            best = {}
            for rows in cases:
                print(f"  {name_of(rows)}")
                best[name_of(rows)] = bench.search(rows, axes, rounds=1 if quick else 2)
            yield f"{title}_search", best


# --- the device -------------------------------------------------------------------------------------------------


def graph_seconds(call: Call, copies: int, replays: int = 20) -> float:
    """Median seconds of one call, from a CUDA graph of one call a copy."""
    call(0)  # builds the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for copy in range(copies):
            call(copy)
    times = []
    for turn in range(replays + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(start.elapsed_time(end) / 1e3 / copies)
    return statistics.median(times)


def read_bandwidth() -> float:
    """Bytes a second of a sum over 4 GiB."""
    memory = torch.randn(1 << 30, device="cuda")  # zeros would draw less power, at higher clocks
    return memory.numel() * 4 / graph_seconds(lambda _: memory.sum(), 1)


def device_facts() -> dict[str, Any]:
    """What ran: device, software, clocks and power at this moment."""
    query = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
    smi = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        state = subprocess.run(smi, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as failed:
        state = f"unknown: {failed}"
    import triton

    software = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton.__version__}
    return {"name": torch.cuda.get_device_name(), **software, query: state}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--update", action="store_true", help="keep the tables of that file which are not measured now")
    parser.add_argument("--quick", action="store_true", help="a few cases only")
    parser.add_argument("--only", action="append", choices=TABLES, help="may be given several times")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no search goes on after so long")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("kernels: needs a CUDA device, and PyTorch sees none here; nothing was measured")
        raise SystemExit(1 if options.json else 0)
    facts, until = device_facts(), time.monotonic() + options.seconds
    entry = DEVICES.get(facts["name"])
    bench = Bench("cuda", graph_seconds, gpu(entry) if entry else None, read_bandwidth(), until)
    print(f"{facts['name']}: a plain read reaches {bench.read_bandwidth / 1e12:.2f} TB/s; {facts}")
    figures = kept(options.json, facts["name"]) if options.update and options.json else {}
    figures |= {"device": facts, "read_bandwidth": bench.read_bandwidth}
    for name, table in measure(bench, options.quick, options.only or TABLES):
        figures |= {name: table, "device_after": device_facts()}
        if options.json:
            import about

            about.write(options.json, "kernels", figures, SEED)


def kept(file: Path, device: str) -> dict[str, Any]:
    """What a file holds already; nothing if it is of another device."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))["cases"] if file.exists() else {}
    return found if found.get("device", {}).get("name") == device else {}


if __name__ == "__main__":
    main()
