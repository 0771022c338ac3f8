"""Two ranks over gloo against transformers, for every architecture; and four, where KV heads must be copied."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from engines.torch.models import ARCHITECTURES, folder, their_logits
from engines.torch.ranks import compute

PROMPT = torch.randint(320, (60,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_logits_of_several_ranks_are_theirs(size: int, tmp_path: Path) -> None:
    names = list(ARCHITECTURES) if size == 2 else ["qwen3", "llama-biases-tied", "qwen3-moe"]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    folders = {name: folder(name) for name in names}
    ranks = [
        context.Process(target=compute, args=(rank, size, str(tmp_path / "store"), folders, PROMPT, 23, answers))
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    found = {}
    for _ in range(size * len(names)):
        name, rank, logits = answers.get(timeout=100)
        found[name, rank] = torch.tensor(logits)
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    for name in names:
        theirs = their_logits(name, PROMPT)
        assert float((found[name, 0] - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())
        # All ranks draw for themselves: they must have the same logits, to the bit.
        assert all(torch.equal(found[name, rank], found[name, 0]) for rank in range(size))
