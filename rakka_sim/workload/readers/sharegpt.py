"""ShareGPT conversations: a JSON array of ``{"conversations": [{"from": ..., "value": ...}, ...]}``; no other format.

Only lengths come of it, and estimated ones: the first turn is the prompt, the second the output, and a token is taken
for four bytes of UTF-8 (English text, within about 20 %; a tokenizer may differ by more on code and other scripts).
Conversations of fewer than two turns, or with an empty one, are skipped and counted. There are no times.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rakka_sim.errors import TraceError
from rakka_sim.workload.json_array import json_array
from rakka_sim.workload.readers.row import Row, Tally

BYTES_PER_TOKEN = 4


def rows(path: Path, timed: bool, tally: Tally) -> Iterator[Row]:
    """The first exchange of each conversation; `timed` changes nothing."""
    file = str(path)
    for line, item in json_array(path):
        turns = item.get("conversations")
        if not isinstance(turns, list):
            shown = turns if "conversations" in item else "(nothing)"
            raise TraceError(file, line, "conversations", shown, "a list of turns")
        texts = [_text(file, line, turn) for turn in turns[:2]]
        if len(texts) == 2 and all(texts):
            yield Row(estimate_tokens(texts[0]), estimate_tokens(texts[1]))
        else:
            tally.skipped += 1


def estimate_tokens(text: str) -> int:
    """Tokens of a text, by its bytes; rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def _text(file: str, line: int, turn: Any) -> str:
    value = turn.get("value") if isinstance(turn, dict) else turn
    if isinstance(value, str) and isinstance(turn, dict):
        return value
    raise TraceError(file, line, "conversations.value", value, "the text of a turn")
