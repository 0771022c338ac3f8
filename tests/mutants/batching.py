"""One-line faults in batching one step ahead, and the tests that must notice. Run by `run.py`; none is applied here.

A fault is (file, the text as it is, the text as it should not be). The text must occur exactly once.
"""

from __future__ import annotations

GROUP = "pipelined"
TESTS = ["tests/core/test_pipelined.py", "tests/scenarios/test_runs_of_steps.py"]
PIPELINED = "rakka_sim/core/pipelined.py"

FAULTS: list[tuple[str, str, str]] = [
    (PIPELINED, "if not self._over or self._before[len(self._over) - 1] < len(self._running):", "if True:"),
    (PIPELINED, " and len(self._over) == over", ""),
    (PIPELINED, "seats = limits.max_num_seqs - len(self._over)", "seats = limits.max_num_seqs"),
    (PIPELINED, "        self._queue.hide(", "        id("),
    (PIPELINED, "        if seq in self._flight:", "        if not seq:"),
    (PIPELINED, "        for _ in range(2):", "        for _ in range(1):"),
    (PIPELINED, "if not self._over and not self._queue.unseen and", "if not self._queue.unseen and"),
    (PIPELINED, "if not self._over and not self._queue.unseen and", "if not self._over and"),
    (PIPELINED, "return in_a_run and bool(self._queue.unseen)", "return in_a_run and False"),
    (PIPELINED, "        self._over = []\n        events = super().fail(", "        events = super().fail("),
]
