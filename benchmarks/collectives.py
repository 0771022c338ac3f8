"""How far the cost of collectives is from what was measured, and what the set of GPUs does to a decode step.

Measured are the busbw figures of nccl-tests' definition published in stas00/ml-engineering (NCCL 2.27.7): all-reduces
of 8 GiB among 4 to 8 GPUs, a sweep over sizes on 8 x H200, and least squares of such sweeps on other machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.hardware import nccl
from rakka_sim.hardware.collectives import Algorithm, Fabric, Group, algorithm, all_reduce, bus_gb_s, own_group
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.roofline import Roofline

RING, NVLS = Algorithm.RING, Algorithm.NVLS

# GPUs -> GB/s of bus bandwidth at 8 GiB, and what NCCL chose.
BUSBW = {
    "H200": {4: (363.3, RING), 5: (414.2, NVLS), 6: (435.6, NVLS), 7: (460.0, NVLS), 8: (473.1, NVLS)},
    "B200": {4: (673.2, RING), 5: (677.8, RING), 6: (778.2, NVLS), 7: (811.2, NVLS), 8: (838.0, NVLS)},
}
SIZES = [1 << power for power in range(15, 35)]
# GB/s of bus bandwidth on 8 x H200 for each of SIZES, 32 KiB to 16 GiB (torch 2.9.1).
H200_SWEEP = (
    *(1.44, 2.93, 5.73, 11.74, 23.94, 39.93, 64.53, 107.16, 155.53, 219.89),
    *(275.84, 346.51, 401.93, 436.15, 450.29, 463.58, 469.17, 473.10, 477.45, 482.26),
)
# Least squares of such sweeps: t[us] = alpha + f S/B + c sqrt(S), as (alpha us, B GB/s, c us).
CURVES = {
    "A100-80": (45.2, 248.1, 0.0235),
    "H200": (35.4, 498.8, 0.0088),
    "B200": (43.6, 878.9, 0.0123),
    "B200 x 4 nodes": (388.7, 401.7, 0.0175),
}
EFA = dataclasses.replace(
    own_group(gpu("B200"), 32), nodes=4, nic_gb_s=400.0, network_hop=nccl.EFA_HOP, pipeline_s=nccl.NETWORK_PIPELINE_S
)

# Four H200 that a deployment may get, from the best to the worst. Rates: NCCL's for PCIe 5 x16, and between sockets.
SETS = {
    "one NVLink island": own_group(gpu("H200"), 4),
    "PCIe switches": Group(4, Fabric.PCIE, nccl.PCIE_X16_GB_S[5][1]),
    "across two sockets (Sapphire Rapids)": Group(4, Fabric.PCIE, nccl.SOCKETS_GB_S["sapphire rapids"]),
    "through host memory": Group(4, Fabric.HOST, nccl.PCIE_X16_GB_S[5][1] * nccl.HOST_SHARE),
    "two nodes, 400 Gb/s per GPU": dataclasses.replace(
        own_group(gpu("H200"), 4), nodes=2, nic_gb_s=100.0, pipeline_s=nccl.NETWORK_PIPELINE_S
    ),
}


def group_of(curve: str) -> Group:
    """The GPUs that a curve was measured on."""
    return EFA if curve == "B200 x 4 nodes" else own_group(gpu(curve), 8)


def fitted_s(curve: str, size: int) -> float:
    """Seconds that the curve gives for an all-reduce of `size` bytes."""
    alpha, rate, root = CURVES[curve]
    n = group_of(curve).gpus
    return (alpha + 2 * (n - 1) / n * size / rate / 1e3 + root * math.sqrt(size)) * 1e-6


def launched_s(group: Group, size: int) -> float:
    """Seconds of the model, with the launch from the host that a benchmark measures too."""
    return all_reduce(group, size) + nccl.BENCHMARK_LAUNCH_S


def busbw() -> list[dict[str, Any]]:
    """The table of 8 GiB, one row per GPU and number of GPUs."""
    rows = []
    print(f"{'8 GiB':<8}{'GPUs':>5}{'model GB/s':>12}{'measured':>10}{'error':>8}  chosen (measured)")
    for name, table in BUSBW.items():
        for gpus, (measured, chosen) in table.items():
            group = own_group(gpu(name), gpus)
            found, way = bus_gb_s(group, nccl.BENCHMARK_BYTES), algorithm(group, nccl.BENCHMARK_BYTES)
            rows.append({"gpu": name, "gpus": gpus, "model": found, "measured": measured, "chosen": way})
            print(f"{name:<8}{gpus:>5}{found:>12.1f}{measured:>10.1f}{found / measured - 1:>8.1%}  {way} ({chosen})")
    return rows


def sweeps() -> dict[str, Any]:
    """Relative errors over sizes: median and largest."""
    group = own_group(gpu("H200"), 8)
    pairs = zip(SIZES, H200_SWEEP, strict=True)
    errors = {"H200, as measured": [launched_s(group, size) / (1.75 * size / gb_s / 1e9) - 1 for size, gb_s in pairs]}
    for curve in CURVES:
        errors[f"{curve}, fitted"] = [launched_s(group_of(curve), size) / fitted_s(curve, size) - 1 for size in SIZES]
    print(f"\n{'32 KiB to 16 GiB':<26}{'median':>8}{'largest':>9}")
    rows = {}
    for name, found in errors.items():
        rows[name] = {"median_abs": statistics.median(map(abs, found)), "max_abs": max(map(abs, found))}
        print(f"{name:<26}{rows[name]['median_abs']:>8.1%}{rows[name]['max_abs']:>9.1%}")
    return rows


def sets() -> dict[str, Any]:
    """Llama-3.1-8B on four H200: one decode step of 32 sequences and one prefill of 2,048 tokens."""
    model, rows = model_spec("Llama-3.1-8B"), {}
    decode, prefill = StepShape((), 32, 32 * 1024, 1024, 32), StepShape(((2048, 0),), samples=1)
    print(f"\n{'Llama-3.1-8B, TP=4 on H200':<38}{'decode ms':>10}{'prefill ms':>12}")
    for name, group in SETS.items():
        roof = Roofline(model, gpu("H200"), 4, group=group)
        rows[name] = {"decode_s": roof.seconds(decode), "prefill_s": roof.seconds(prefill)}
        print(f"{name:<38}{rows[name]['decode_s'] * 1e3:>10.2f}{rows[name]['prefill_s'] * 1e3:>12.1f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="accepted for uniformity: it takes a second anyway")
    options = parser.parse_args()
    cases = {"busbw": busbw(), "sweeps": sweeps(), "sets": sets()}
    if options.json:
        import about  # beside this file; tests import this module without it

        about.write(options.json, "collectives", cases, seed=0)


if __name__ == "__main__":
    main()
