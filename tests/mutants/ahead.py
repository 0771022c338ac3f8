"""One-line faults in plans made ahead, and the tests that must notice each. Run by `run.py`; none is applied here."""

from __future__ import annotations

CORE, ACTOR, WORKER = "rakka_sim/core/ahead.py", "rakka_sim/actors/ahead.py", "rakka_sim/actors/worker.py"
FEED, RUNS, VIEWS = "rakka_sim/core/feed.py", "rakka_sim/core/runs.py", "rakka_sim/core/foresight.py"
SPANS, SEQUENCE = "rakka_sim/core/cached_span.py", "rakka_sim/core/sequence.py"
LANES = "rakka_sim/core/lanes.py"

PLANS = ["tests/core/test_ahead.py"]
SEEN = ["tests/core/test_foresight.py", *PLANS]
THROUGH = ["tests/scenarios/test_ahead.py", "-m", "not slow"]
BY_FILE = {
    CORE: PLANS,
    RUNS: PLANS,
    VIEWS: SEEN,
    SPANS: SEEN,
    LANES: SEEN,
    SEQUENCE: SEEN,
    FEED: ["tests/core/test_feed.py", "tests/core/test_ahead_feed.py"],
    ACTOR: THROUGH,
    WORKER: THROUGH,
}

FAULTS = [
    # What follows.
    (CORE, "if plan is None or self._cut:", "if plan is None:"),
    (CORE, "future.commit(plan.steps)", "future.commit(1)"),
    (CORE, "future.plan(most)", "future.plan()"),
    (CORE, "KvAhead(self._kv), self._runs)", "KvAhead(self._kv))"),
    (CORE, "KvAhead(self._kv), ", "self._kv, "),
    (CORE, "WaitingAhead(self._waiting), ", "self._waiting, "),
    (
        CORE,
        "            if seq.beat is not None:\n                future",
        "            if True:\n                future",
    ),
    (CORE, "known[row] for row in rows if not known[row].running]", "known[row] for row in rows]"),
    (CORE, "[*following.kv.table(row)[len(self._kv.table(row)) :], ", "["),
    (CORE, ", *of_run.get(row, ())]", "]"),
    # Whether somebody who comes has a part in it.
    (CORE, "plan.running < limits.max_num_seqs and tokens", "tokens"),
    (CORE, " and tokens < limits.max_num_batched_tokens", ""),
    (
        CORE,
        "if seats_left and not any(isinstance(event, Preempted) for event in future.take_events()):",
        "if seats_left:",
    ),
    (CORE, "            made.looked += 1\n", ""),
    (CORE, "        if super().run_must_end:\n            return True\n", ""),
    (CORE, "return bool(self._late) or list(", "return list("),
    (CORE, "list(islice(self._waiting, following.looked)) != following.called", "False"),
    # Who is cancelled meanwhile.
    (CORE, "if following is None or seq is None or not (seq.running or seq in following.seated):", "if True:"),
    (CORE, "not (seq.running or seq in following.seated)", "not seq.running"),
    (CORE, "not (seq.running or seq in following.seated)", "seq not in self._flight"),
    (CORE, "            self._sequences[request_id].cancelled = False\n", "            pass\n"),
    (CORE, "            news += self.cancel(request_id)\n", "            pass\n"),
    (CORE, "commit(steps_done, ended) + self._cancel_late()", "commit(steps_done, ended)"),
    (CORE, "fail(steps_done) + self._cancel_late()", "fail(steps_done)"),
    # In earnest.
    (CORE, "everybody, self._waiting = self._waiting, WaitingQueue()", "everybody = self._waiting"),
    (CORE, "self.plan(following.plan.steps)", "self.plan()"),
    (CORE, "            everybody.push_front(seq)", "            everybody.push(seq)"),
    (CORE, "in reversed(list(self._waiting)):", "in list(self._waiting):"),
    (CORE, "everybody, following.head", "everybody, everybody.head()"),
    (CORE, "replace(made, waiting=everybody.count)", "made"),
    (CORE, "        super()._landed()\n        self._following = None", "        super()._landed()"),
    (RUNS, "    if not plan.crossings:\n        return []\n", ""),
    # Views.
    (VIEWS, "self.push(seq.copy())", "self.push(seq)"),
    (VIEWS, "            self.count -= 1  # it", "            pass  # it"),
    (VIEWS, "        super().remove(seq)\n        self._call()", "        super().remove(seq)"),
    (VIEWS, "if block in self._taken:", "if False:"),
    (VIEWS, "return False if block in self._given else None", "return None"),
    (VIEWS, "        self._taken.difference_update(blocks)\n", ""),
    (VIEWS, "        now.settle()\n", ""),
    (VIEWS, "            if base in self._lanes.by_base:", "            if False:"),
    (VIEWS, "block in self._keyed or self._now", "self._now"),
    (LANES, "table.lead + self.beat, table.place", "table.lead, table.place"),
    (VIEWS, "now._portions.copy()", "now._portions"),
    (VIEWS, "now._stale.copy()", "now._stale"),
    (VIEWS, "table.copy() for", "table for"),
    (VIEWS, "now._sharers.copy()", "now._sharers"),
    (VIEWS, "not self._found and self._lost.isdisjoint(hits)", "not self._found"),
    (VIEWS, "not self._found and self._lost.isdisjoint(hits)", "self._lost.isdisjoint(hits)"),
    (VIEWS, " if block not in self._lost]", "]"),
    (VIEWS, "                self._found[key].remove(block)", "                pass"),
    (VIEWS, "hits.append(candidates[0])", "hits.append(candidates[-1])"),
    (SPANS, "[known, *self._others.get(place, [])]", "[known]"),
    (SEQUENCE, "        made.restart(self.computed)\n        return made", "        return made"),
    # Who is told what, and when.
    (FEED, "self._told[fed.request_id].known = True", "pass"),
    (FEED, "            self._told[request_id].blocks = len(self._kv.table(request_id))\n", "            pass\n"),
    (FEED, "        del self._gone[: len(feed.gone)]", "        self._gone = []"),
    (FEED, "        del self._gone[: len(feed.gone)]", "        pass"),
    (FEED, "(*table[told.blocks :], *more)", "tuple(more)"),
    (ACTOR, "            self._admit_queued(ctx)\n", ""),
    (ACTOR, "            self._wake(ctx)  #", "            #"),
    (ACTOR, "self._ending, self._progress = False, Progress()", "self._progress = Progress()"),
    (ACTOR, "        self._longest_run = self._pace.most\n        if outcome", "        if outcome"),
    (ACTOR, "        self._tokens.note(self._told)\n", ""),
    (ACTOR, "began=max(self._looked_at, float(times[-1]))", "began=ctx.now"),
    (ACTOR, "began=max(self._looked_at, float(times[-1]))", "began=float(times[-1])"),
    (ACTOR, "        self._emit(ctx, news, began", "        self._emit(ctx, [], began"),
    (WORKER, "if outcome.goes_on and following is not None:", "if following is not None:"),
]


def tests_for(group: str, file: str) -> list[str]:
    """What pytest is asked to run against a fault in that file."""
    return BY_FILE[file]


def all_mutants() -> list[tuple[str, str, str, str]]:
    """Each fault, in its group."""
    return [("ahead", *fault) for fault in FAULTS]
