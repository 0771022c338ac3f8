"""What NCCL counts a link at and how long its steps take: the one table behind `collectives`; no arithmetic here.

Rates are GB/s (1e9 bytes) per direction, latencies seconds. Sources: [topo.h], [tuning.cc]: the constants of NCCL
v2.30.7, `src/graph/`; [busbw]: all-reduces of 8 GiB, NCCL 2.27.7, published in stas00/ml-engineering; [sizes]: least
squares over 32 KiB to 16 GiB of the published size sweeps of 8 x A100 (nccl-tests), 8 x H200 and 8 x B200, and
4 x 8 x B200 over EFA.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NvLink:
    """A generation of NVLink on one kind of GPU.

    `links` per GPU; `link_gb_s`: what one carries by the datasheet; `nccl_gb_s`: what NCCL counts it at.
    `nvls`: the share of its links that a reduction in the switch (NVLink SHARP) reaches; None where switches cannot.
    `pipeline_s`: how long a transfer takes to fill and drain, see `collectives`; None: not measured.
    """

    links: int
    link_gb_s: float
    nccl_gb_s: float
    nvls: float | None
    pipeline_s: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Hop:
    """Seconds of one step to a neighbour, in a ring and in a tree."""

    ring_s: float
    tree_s: float
    source: str


# fmt: off
NVLINK: dict[str, NvLink] = {
    "P100": NvLink(4, 20.0, 18.0, None, None, "[topo.h]"),
    "V100": NvLink(6, 25.0, 20.0, None, None, "[topo.h]"),
    "A100": NvLink(12, 25.0, 20.0, None, 19.5e-6, "[topo.h]; pipeline [sizes], a ring"),
    "H100": NvLink(18, 25.0, 20.6, 0.83, 5.5e-6,
                   "[topo.h]; nvls [busbw] (0.85 in [tuning.cc]); pipeline [sizes], NVLS on H200"),
    "B200": NvLink(18, 50.0, 40.1, 0.74, 19.0e-6, "[topo.h]; nvls [tuning.cc]; pipeline [sizes], NVLS"),
    "GA102 bridge": NvLink(4, 14.0625, 12.0, None, None, "datasheet; [topo.h], sm86"),
}
# PCIe x16 by generation: by the datasheet, and as NCCL counts it: width * speed / 80 [topo.h].
PCIE_X16_GB_S: dict[int, tuple[float, float]] = {3: (15.8, 12.0), 4: (31.5, 24.0), 5: (63.0, 48.0), 6: (121.0, 96.0)}
# Between two sockets [topo.h].
SOCKETS_GB_S: dict[str, float] = {
    "broadwell": 6.0, "skylake": 10.0, "sapphire rapids": 22.0, "emerald rapids": 40.0, "amd": 16.0, "power9": 32.0,
    "arm": 6.0,
}

# A message in NCCL's low-latency protocol (LL), which is what small ones use [tuning.cc].
RING_BASE_S = 6.6e-6
TREE_BASE_S = 6.8e-6
NVLS_S = 25e-6
NVLINK_HOP = Hop(0.6e-6, 0.6e-6, "[tuning.cc]")
PCIE_HOP = Hop(1.0e-6, 1.0e-6, "[tuning.cc]")
HOST_HOP = Hop(2.0e-6, 2.0e-6, "inferred: through host memory, so two crossings of PCIe")
INFINIBAND_HOP = Hop(2.7e-6, 5.0e-6, "[tuning.cc]")
EFA_HOP = Hop(54e-6, 87e-6, "[sizes]: what the sweep over EFA starts with beyond launch, base and NVLink hops")
# fmt: on

TREE_SHARE = 0.92  # of the ring's bandwidth [tuning.cc]
HOST_SHARE = 0.5  # of PCIe's rate where GPUs have no peer access: every byte is written and read; inferred
NIC_SHARE = 0.73  # of the NICs' rate that an all-reduce over nodes reaches: 36.5 of 50 GB/s per GPU, 4 x 8 x B200
PIPELINE_S = 19.5e-6  # where nothing was measured: the A100's, the only ring that was
NETWORK_PIPELINE_S = 15.8e-6  # [sizes], over EFA
BENCHMARK_LAUNCH_S = (
    25e-6  # what a benchmark's launch from the host adds to a small collective; a CUDA graph's does not
)
BENCHMARK_BYTES = 8 << 30  # the size at which the bandwidths of [busbw] hold
# Consumer cards reach each other through host memory only (`nvidia-smi topo -p2p`: CNS between all pairs).
NO_PEER_ACCESS = ("RTX 4090",)
