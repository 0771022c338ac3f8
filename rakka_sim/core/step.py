"""A step in the making: its rows and what they add up to. Who gets a row is not decided here."""

from __future__ import annotations

from collections.abc import Sequence as Rows

from rakka_sim.core.decoding import Decoding
from rakka_sim.core.plan_rows import MixedRows
from rakka_sim.core.sequence import Sequence
from rakka_sim.values import StepPlan, StepRow


class Step:
    """Collects rows until its `budget` of tokens is spent."""

    __slots__ = (
        "_decoding",
        "budget",
        "context_tokens",
        "decode_seqs",
        "max_context",
        "prefill_tokens",
        "rows",
        "sequences",
    )

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.rows: list[StepRow] = []  # without those that `put_all` has put
        self.sequences: list[Sequence] = []  # of all rows
        self._decoding: Rows[StepRow] | None = None
        self.prefill_tokens = self.decode_seqs = self.context_tokens = self.max_context = 0

    def put_all(self, decoding: Decoding, sequences: list[Sequence]) -> None:
        """Add a row for everybody who decodes, before any other row; the sequences in order."""
        self._decoding = decoding.rows(sequences)
        self.sequences = sequences.copy()
        self.budget -= decoding.count
        self.decode_seqs = decoding.count
        self.context_tokens = decoding.context_tokens()
        self.max_context = decoding.longest()

    def put(self, seq: Sequence, tokens: int) -> None:
        """Add a row that computes the next `tokens` of a sequence."""
        context = seq.computed  # properties: read once, they cost a call
        samples = context + tokens == seq.total
        self.rows.append(StepRow(seq.request_id, tokens, context, samples))
        self.sequences.append(seq)
        self.budget -= tokens
        if tokens == 1 and samples:  # a decode row, or a prompt's last token: they cost the same
            self.decode_seqs += 1
            self.context_tokens += context
            if context > self.max_context:
                self.max_context = context
        else:
            self.prefill_tokens += tokens

    def plan(self, running: int, waiting: int, kv_blocks: int) -> StepPlan:
        """The finished step."""
        return StepPlan(
            rows=self.rows if self._decoding is None else MixedRows(self._decoding, self.rows),
            steps=1,
            prefill_tokens=self.prefill_tokens,
            decode_seqs=self.decode_seqs,
            context_tokens=self.context_tokens,
            max_context=self.max_context,
            running=running,
            waiting=waiting,
            kv_blocks=kv_blocks,
        )
