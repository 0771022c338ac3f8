"""Which row of `nccl` a device is: by compute capability, the driver's spelling of a PCIe link, a CPU's ids.

Rates are GB/s (1e9 bytes) per direction, as NCCL counts them. Nothing here knows how devices are joined.
"""

from __future__ import annotations

from rakka_sim.hardware import nccl

# Compute capability x 10 from which on -> the row; 8.6 alone is slower than its neighbours (ncclTopoNVLinkBw).
_NVLINK = ((100, "B200"), (90, "H100"), (87, "A100"), (86, "GA102 bridge"), (80, "A100"), (70, "V100"), (60, "P100"))
_UNKNOWN_NVLINK = "A100"

# A PCIe generation as the driver spells it -> NCCL's unit per lane (kvDictPciGen).
_PCIE_LANE = {
    "2.5 GT/s": 15,
    "5 GT/s": 30,
    "8 GT/s": 60,
    "16 GT/s": 120,
    "32 GT/s": 240,
    "2.5 GT/s PCIe": 15,
    "5.0 GT/s PCIe": 30,
    "8.0 GT/s PCIe": 60,
    "16.0 GT/s PCIe": 120,
    "32.0 GT/s PCIe": 240,
    "64.0 GT/s PCIe": 480,
}
_GEN3_LANE = 60
_FULL_WIDTH = 16

# Intel's family 6 by model from which on (ncclTopoAddCpu).
_INTEL = ((0xCF, "emerald rapids"), (0x8F, "sapphire rapids"), (0x55, "skylake"), (0, "broadwell"))
_BY_ARCH = {"ppc64": "power9", "arm64": "arm"}

# An Intel CPU breaks what GPUs send each other through it into packets of 64 bytes (INTEL_P2P_OVERHEAD).
INTEL_PEER_SHARE = 5 / 6
# A network port that does not say how fast it is (ncclTopoAddNet).
_UNKNOWN_PORT_MBIT_S = 10_000


def nvlink(sm: int) -> nccl.NvLink:
    """The NVLink of GPUs of compute capability `sm` / 10; an unknown one (0) counts as 8.0, as in NCCL."""
    return nccl.NVLINK[next((row for least, row in _NVLINK if sm >= least), _UNKNOWN_NVLINK)]


def pcie_is_known(speed: str) -> bool:
    """Whether NCCL knows this spelling of a PCIe generation."""
    return speed in _PCIE_LANE


def pcie(speed: str, width: int) -> float:
    """GB/s of a PCIe link; an unknown `speed` is Gen3 and a `width` of 0 is 16 lanes, as in NCCL."""
    return _PCIE_LANE.get(speed, _GEN3_LANE) * (width or _FULL_WIDTH) / 80


def socket(arch: str, vendor: str, family: int, model: int) -> float | None:
    """GB/s between two CPUs of that kind; None for one that is not in the table."""
    if arch in _BY_ARCH:
        row = _BY_ARCH[arch]
    elif vendor == "AuthenticAMD":
        row = "amd"
    elif vendor == "GenuineIntel":
        row = next((row for least, row in _INTEL if family == 6 and model >= least), "broadwell")
    else:
        return None
    return nccl.SOCKETS_GB_S[row]


def port(mbit_s: int) -> float:
    """GB/s of a network port; one that says 0 or less counts as 10 Gb/s, as in NCCL."""
    return (mbit_s if mbit_s > 0 else _UNKNOWN_PORT_MBIT_S) / 8000
