"""One-line faults in plans made ahead, and the tests that must notice each. Run by `run.py`; none is applied here."""

from __future__ import annotations

CORE, ACTOR, WORKER = "rakka_sim/core/ahead.py", "rakka_sim/actors/ahead.py", "rakka_sim/actors/worker.py"
FEED, RUNS = "rakka_sim/core/feed.py", "rakka_sim/core/runs.py"

QUICK = ["tests/core/test_ahead.py", "tests/scenarios/test_ahead.py", "-m", "not slow"]
BY_FILE = {
    CORE: QUICK,
    RUNS: QUICK,
    FEED: ["tests/core/test_feed.py", "tests/scenarios/test_ahead.py"],
    ACTOR: ["tests/scenarios/test_ahead.py"],
    WORKER: ["tests/scenarios/test_ahead.py"],
}

FAULTS = [
    (CORE, "if self._plan is not None and self._runs and not self._cut:", "if self._plan is not None and self._runs:"),
    (CORE, "promised_blocks((self._plan, self._following), ", "promised_blocks((self._following,), "),
    (CORE, "head is not self._next_head)", "False)"),
    (CORE, "return self._others_are_due() or", "return super().run_must_end or"),
    (CORE, "if seq.cancelled and seq.request_id in rows]", "if False and seq.request_id in rows]"),
    (CORE, "            seq.cancelled = True", "            seq.cancelled = False"),
    (CORE, "self._running.copy(), head, bool(late)", "self._running.copy(), self._waiting.head(), bool(late)"),
    (CORE, "self._running.copy(), head, bool(late)", "self._running.copy(), head, False"),
    (CORE, "+ following.crossings[0]", ""),
    (CORE, ", waiting=self._waiting.count)", ")"),
    (CORE, "if row is None or not row.samples:", "if row is None:"),
    (CORE, "left = seq.end - seq.total - plan.steps", "left = seq.end - seq.total - 1"),
    (CORE, "row.context + row.tokens + plan.steps - 1", "row.context + row.tokens"),
    (CORE, "if not count or (waiting.head() is not None and count < limits.seats):", "if not count:"),
    (CORE, "kv.free_blocks - len(taking_order(plan, kv.block_size))", "kv.free_blocks"),
    (RUNS, "if not plan.crossings:", "if plan.steps == 1:"),
    (FEED, "            told.blocks = len(self._kv.table(row.request_id))\n", ""),
    (ACTOR, "            self._admit_queued(ctx)\n", ""),
    (ACTOR, "            self._wake(ctx)  #", "            #"),
    (ACTOR, "self._ending, self._progress = False, Progress()", "self._progress = Progress()"),
    (ACTOR, "        self._longest_run = self._pace.most\n        if outcome", "        if outcome"),
    (WORKER, "if outcome.goes_on and following is not None:", "if following is not None:"),
]


def tests_for(group: str, file: str) -> list[str]:
    """What pytest is asked to run against a fault in that file."""
    return BY_FILE[file]


def all_mutants() -> list[tuple[str, str, str, str]]:
    """Each fault, in its group."""
    return [("ahead", *fault) for fault in FAULTS]
