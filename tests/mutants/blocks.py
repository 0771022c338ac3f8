"""One-line faults in what is put off about KV blocks until somebody looks, and the tests that must notice.

Run by `run.py`; none is applied here. A fault is (file, the text as it is, the text as it should not be).
"""

from __future__ import annotations

GROUP = "blocks"
TESTS = ["tests/core/test_lanes.py", "tests/core/test_kv.py", "tests/core/test_runs.py"]
KV, LANES, SPAN = "rakka_sim/core/kv.py", "rakka_sim/core/lanes.py", "rakka_sim/core/cached_span.py"

FAULTS: list[tuple[str, str, str]] = [
    # Registered late: before whoever could find it looks, before others register the same, and when its request leaves.
    (KV, "                if base in growing:\n                    self._catch_up(base)\n", ""),
    (KV, "self._catch_up(base)\n            self._register_piece", "pass\n            self._register_piece"),
    (KV, "        full = lanes.full(table)\n", "        full = 0\n"),
    (KV, "if lanes.has_twin(table):", "if not table:"),
    (KV, "in sorted(filled):", "in filled:"),
    (KV, "(block * size - table.lead, table.place, turn)", "(block * size, table.place, turn)"),
    (KV, "(block * size - table.lead, table.place, turn)", "(block * size - table.lead, (0, 0), turn)"),
    # Dealt late: to those who were there, in turn.
    (KV, "        if table.lane >= 0:\n            self._lanes.deal(table.lane)\n", ""),
    (LANES, "        self.deal(lane)\n", ""),
    (LANES, "            del blocks[turn :: len(tables)]\n", ""),
    (LANES, "first += self.count", "first += total"),
    (LANES, "if tables and tables[-1].place > place:", "if not tables:"),
    (LANES, "self.beat % self.block_size\n        return", "0\n        return"),
    # Held, if some table that uses the span has it at its place.
    (SPAN, "number < len(table) and table[number] == block", "True"),
    (
        KV,
        "len(table.blocks)):\n            self._note(table, base)",
        "len(table.blocks)):\n            pass",
    ),
    (KV, "if blocks is not table.blocks])", "])"),
    (KV, "missing -= self._is_held(hits[number], number)", "missing -= False"),
    (KV, "held = self._held_together(hits)", "held = len(hits)"),
    (KV, "held = self._held_together(table.blocks)", "held = len(table.blocks)"),
    (SPAN, "table[last] == block and table[:count] == hits[:count]", "table[last] == block"),
]
