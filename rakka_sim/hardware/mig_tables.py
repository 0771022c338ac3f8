"""Into what a GPU can be cut (MIG): profiles, legal starts and what a slice holds, with sources; no state is here.

Starts and sizes are in memory slices, as `nvidia-smi mig -lgipp` prints them. They are the same on every GPU with
seven compute slices whose listing was seen (A100-40, H100-80, H100-94); for H200 and B200 they follow from the same
profile ids and counts. Beware of go-nvml's mocks of H100, H200 and B200: they have 3g over 3 slices with 48 SMs and 7g
over 7 with 112, where the driver says 4 with 60 and 8 with 132.

Sources: [guide] NVIDIA's MIG user guide, supported profiles; [lgip] published listings of the driver (H200: mig-parted
#120; B200 of 180 GB: gpu-operator #1351); [a100.go] go-nvml's mock of the A100, which agrees with the driver.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to cut a slice: `compute` and `memory` slices, where it may start, and how often it may occur.

    `sms` and `memory_bytes` are what a program finds in it. `plain`: it carries no more than its share of the media
    engines (a profile with ``+me`` takes all there are).
    """

    name: str
    nvml_id: int
    compute: int
    memory: int
    starts: tuple[int, ...]
    most: int
    memory_bytes: int
    sms: int
    plain: bool = True

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Cut:
    """All profiles of one kind of GPU, smallest first, and into how many memory slices it is cut."""

    gpu: str
    memory: int
    profiles: tuple[Profile, ...]
    source: str


# What the seven-slice GPUs share: id, compute slices, memory slices, starts, most, and the suffix of its name.
_SEVEN = (
    (19, 1, 1, tuple(range(7)), 7),
    (20, 1, 1, tuple(range(7)), 1),  # +me
    (15, 1, 2, (0, 2, 4, 6), 4),  # a slice of compute with two of memory
    (14, 2, 2, (0, 2, 4), 3),
    (9, 3, 4, (0, 4), 2),
    (5, 4, 4, (0,), 1),
    (0, 7, 8, (0,), 1),
)
_MEDIA = 20


def _seven(gpu: str, source: str, *rows: tuple[str, float, int]) -> Cut:
    """`rows`: name, GiB and SMs of the plain profiles, in the order of `_SEVEN`."""
    named = [rows[0], (f"{rows[0][0]}+me", *rows[0][1:]), *rows[1:]]
    profiles = [
        Profile(name, nvml, compute, memory, starts, most, round(gib * GIB), sms, nvml != _MEDIA)
        for (nvml, compute, memory, starts, most), (name, gib, sms) in zip(_SEVEN, named, strict=True)
    ]
    return Cut(gpu, 8, tuple(profiles), source)


# fmt: off
CUTS: tuple[Cut, ...] = (
    Cut("A30", 4, (
        Profile("1g.6gb", 14, 1, 1, (0, 1, 2, 3), 4, round(5.81 * GIB), 14),
        Profile("2g.12gb", 5, 2, 2, (0, 2), 2, round(11.69 * GIB), 28),
        Profile("4g.24gb", 0, 4, 4, (0,), 1, round(23.50 * GIB), 56),
    ), "[guide], [lgip]; its +me profiles are left out"),
    _seven("A100-40", "[guide], [lgip]; memory [a100.go]",
           ("1g.5gb", 4.75, 14), ("1g.10gb", 9.62, 14), ("2g.10gb", 9.62, 28), ("3g.20gb", 19.5, 42),
           ("4g.20gb", 19.5, 56), ("7g.40gb", 39.25, 98)),
    _seven("A100-80", "[guide], [a100.go]",
           ("1g.10gb", 9.62, 14), ("1g.20gb", 19.5, 14), ("2g.20gb", 19.5, 28), ("3g.40gb", 39.25, 42),
           ("4g.40gb", 39.25, 56), ("7g.80gb", 78.5, 98)),
    _seven("H100", "[guide], [lgip]; 80 GB",
           ("1g.10gb", 9.75, 16), ("1g.20gb", 19.62, 26), ("2g.20gb", 19.62, 32), ("3g.40gb", 39.5, 60),
           ("4g.40gb", 39.5, 64), ("7g.80gb", 79.25, 132)),
    _seven("H200", "[guide], [lgip]",
           ("1g.18gb", 16.0, 16), ("1g.35gb", 32.25, 26), ("2g.35gb", 32.25, 32), ("3g.71gb", 69.5, 60),
           ("4g.71gb", 69.5, 64), ("7g.141gb", 139.75, 132)),
    _seven("B200", "[guide], [lgip]; 180 GB",
           ("1g.23gb", 20.5, 18), ("1g.45gb", 44.25, 30), ("2g.45gb", 44.25, 36), ("3g.90gb", 89.0, 70),
           ("4g.90gb", 89.0, 72), ("7g.180gb", 178.5, 148)),
)
# fmt: on
