"""Which ids are there already, for the rows of a step that are penalised for it; how much it costs is in `reference`.

Counts follow from a sequence's ids alone, so they are the same alone or in a batch, after a preemption and after a
restart. Within a run they are kept on the device and grow with each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rakka_sim.engines.torch import reference
from rakka_sim.engines.torch.packing import Known


class Penalties:
    """Of the rows that sample in a step, those whose requests penalise; [rows, vocabulary] each."""

    def __init__(self, rows: Sequence[Known], vocabulary: int, device: torch.device) -> None:
        at = [place for place, seq in enumerate(rows) if seq.fed.sampling.penalises]
        self._places = torch.tensor(at, dtype=torch.int64, device=device)
        self._generated = torch.zeros((len(at), vocabulary), dtype=torch.int32, device=device)
        self._prompts = torch.zeros((len(at), vocabulary), dtype=torch.bool, device=device)
        for line, place in enumerate(at):
            seq = rows[place]
            prompt = torch.from_numpy(seq.ids(0, seq.fed.prompt)).to(device)
            generated = torch.from_numpy(seq.ids(seq.fed.prompt, seq.length)).to(device)
            self._prompts[line, prompt] = True
            self._generated[line] = torch.bincount(generated, minlength=vocabulary)
        sampling = [rows[place].fed.sampling for place in at]
        self._costs = [
            torch.tensor(values, dtype=torch.float32, device=device)
            for values in (
                [one.repetition_penalty for one in sampling],
                [one.presence_penalty for one in sampling],
                [one.frequency_penalty for one in sampling],
            )
        ]

    def apply(self, logits: Tensor) -> Tensor:
        """The logits of all rows that sample; those of the others as they are."""
        if len(self._places):
            changed = reference.penalised(logits[self._places], self._generated, self._prompts, *self._costs)
            logits = logits.index_copy(0, self._places, changed.to(logits.dtype))
        return logits

    def drew(self, tokens: Tensor) -> None:
        """One more id of every row that samples."""
        if len(self._places):
            mine = tokens[self._places].clamp_min(0)[:, None]
            self._generated.scatter_add_(1, mine, torch.ones_like(mine, dtype=torch.int32))
