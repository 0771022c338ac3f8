"""What a time model is: a step's shape in, seconds out. No model may be in this file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rakka_sim.values import value

if TYPE_CHECKING:
    import numpy as np

FEW = 16  # steps: for a run of no more, numpy's vectors take longer to make than the numbers one by one


@value
class StepShape:
    """What a step costs by.

    `prefill`: (tokens computed, tokens already in the KV cache) of each prefill row. `decode_context` sums the
    context of the `decode_seqs` rows that compute one token, the token itself included; `decode_max` is the longest.
    `samples` rows go through the language-model head.
    """

    prefill: tuple[tuple[int, int], ...] = ()
    decode_seqs: int = 0
    decode_context: int = 0
    decode_max: int = 0
    samples: int = 0

    @property
    def tokens(self) -> int:
        """Tokens computed in the step."""
        tokens = self.decode_seqs
        for chunk, _ in self.prefill:  # nearly always one, which `sum` over a generator takes ten times as long for
            tokens += chunk
        return tokens


class StepTimeModel(Protocol):
    """Seconds a step takes on a device, host overhead not included."""

    def seconds(self, shape: StepShape) -> float:
        """One step."""
        ...

    def run_seconds(self, shape: StepShape, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A run of decode steps: at step j every context is j tokens longer. Element j equals the float that
        `seconds` gives for that shape, to the last bit: a run must be the same as its steps one by one."""
        ...

    def bytes_moved(self, shape: StepShape) -> float:
        """Bytes of device memory that one step must read and write, for the implied bandwidth."""
        ...

    def flops(self, shape: StepShape) -> float:
        """Arithmetic of one step, for the implied share of the device's peak (MFU)."""
        ...
