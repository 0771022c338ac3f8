"""The sampler in three launches: what may be drawn, the best of each chunk of the vocabulary, the best of those.

A row that needs no cut costs nothing in the first. The noise is `gumbel.py`'s, computed where it is used; see there for
why it looks as it does.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rakka_sim.engines.torch.reference import BROKEN

CHUNK = 4096  # ids of one program: enough of them to fill the device at batch 1, few enough to reduce at once
CUT_BLOCK = 8192  # of a pass over the whole vocabulary by one program, which waits for memory in every turn
ZERO_BITS = {torch.bfloat16: 16, torch.float16: 13}  # at the end of such numbers once they are float32


@triton.jit
def _mix(state, word):
    word = word * 0xCC9E2D51
    word = ((word << 15) | (word >> 17)) * 0x1B873593
    state ^= word
    return ((state << 13) | (state >> 19)) * 5 + 0xE6546B64


@triton.jit
def _noise(seed, position, ids):
    state = _mix(_mix(tl.full((), 0, tl.uint32), seed.to(tl.uint32)), (seed >> 32).to(tl.uint32))
    h = _mix(_mix(state, position.to(tl.uint32)), ids.to(tl.uint32)) ^ 16
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    h ^= h >> 16
    u = (h.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2^-32
    series = u * (1.0 + u * (0.5 + u * (0.3333333333333333 + u * 0.25)))
    return -tl.log(tl.where(u < 0.015625, series, -tl.log(tl.maximum(1.0 - u, 2.9802322387695312e-08))))  # 2^-25


@triton.jit
def _flip(word):
    """Between a float's bits and an int32 in the floats' order; its own inverse."""
    return word ^ ((word >> 31) & 0x7FFFFFFF)


@triton.jit
def _above(logits, vocabulary, one, two, three, largest, temperature, SHIFT: tl.constexpr, COUNT: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """How many logits have a key of at least each floor, or (not COUNT) their sums of exp((logit - largest) / T)."""
    nothing = tl.zeros((BLOCK,), tl.float32)
    first, second, third = nothing, nothing, nothing
    for start in range(0, vocabulary, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        there = ids < vocabulary
        x = tl.load(logits + ids, mask=there, other=float("-inf")).to(tl.float32)
        key = _flip(x.to(tl.int32, bitcast=True)) >> SHIFT
        weight = 1.0 if COUNT else tl.exp((x - largest) / temperature)
        first += tl.where(there & (key >= one.to(tl.int32)), weight, 0.0)
        second += tl.where(there & (key >= two.to(tl.int32)), weight, 0.0)
        third += tl.where(there & (key >= three.to(tl.int32)), weight, 0.0)
    return tl.sum(first, 0), tl.sum(second, 0), tl.sum(third, 0)


@triton.jit
def _largest_floor(
    logits, vocabulary, low, high, enough, largest, temperature, SHIFT: tl.constexpr, COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest key in [low, high) above which there is `enough`; low is known to do. Each pass leaves a quarter."""
    while high - low > 1:
        one, two, three = low + (high - low) // 4, low + (high - low) // 2, low + 3 * (high - low) // 4
        by_one, by_two, by_three = _above(
            logits, vocabulary, one, two, three, largest, temperature, SHIFT, COUNT, BLOCK
        )
        if by_three >= enough:
            low = three
        elif by_two >= enough:
            low, high = two, three
        elif by_one >= enough:
            low, high = one, two
        else:
            high = one
    return low


@triton.jit(do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps"])
def _cuts(logits, temperatures, top_ks, top_ps, cuts, vocabulary, stride, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    """One program a row: the smallest logit that may be drawn.

    SHIFT: how many bits at the end of a logit, as float32, are always 0; keys do without them.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    temperature, k, p = tl.load(temperatures + row), tl.load(top_ks + row), tl.load(top_ps + row)
    by_k = (k > 0) & (k < vocabulary)
    cut = float("-inf")
    if (temperature > 0) & (by_k | (p < 1)):
        best = tl.full((BLOCK,), float("-inf"), tl.float32)
        for start in range(0, vocabulary, BLOCK):
            ids = start + tl.arange(0, BLOCK)
            best = tl.maximum(best, tl.load(logits + ids, mask=ids < vocabulary, other=float("-inf")).to(tl.float32))
        largest = tl.max(best, 0)
        # Keys are int32, but their differences are not.
        high = (_flip(largest.to(tl.int32, bitcast=True)) >> SHIFT).to(tl.int64) + 1
        low = tl.full((), -(2147483648 >> SHIFT), tl.int64)
        if by_k:
            count = k.to(tl.float32)
            low = _largest_floor(logits, vocabulary, low, high, count, largest, temperature, SHIFT, True, BLOCK)
        if p < 1:
            all_of_it, _, _ = _above(logits, vocabulary, low, low, low, largest, temperature, SHIFT, False, BLOCK)
            enough = p * all_of_it
            low = _largest_floor(logits, vocabulary, low, high, enough, largest, temperature, SHIFT, False, BLOCK)
        # A negative one comes back a little lower than it was, but not as low as the next that there can be.
        cut = _flip(low.to(tl.int32) << SHIFT).to(tl.float32, bitcast=True)
    tl.store(cuts + row, cut)


@triton.jit(do_not_specialize_on_alignment=["temperatures", "seeds", "positions"])
def _best_of_chunk(
    logits, temperatures, cuts, seeds, positions, values, ids_out, vocabulary, stride,
    BROKEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    ids = chunk * BLOCK + tl.arange(0, BLOCK)
    score = tl.load(logits + row * stride + ids, mask=ids < vocabulary, other=float("-inf")).to(tl.float32)
    # What is finite, less itself, is zero.
    broken = tl.max(tl.where((ids < vocabulary) & (score - score != 0.0), 1, 0), 0)
    score = tl.where(score == score, score, float("-inf"))
    temperature = tl.load(temperatures + row)
    if temperature > 0:
        noise = _noise(tl.load(seeds + row), tl.load(positions + row), ids)
        score = tl.where(score < tl.load(cuts + row), float("-inf"), score / temperature + noise)
    at = row * tl.num_programs(1) + chunk
    value, index = tl.max(score, 0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(values + at, value)
    tl.store(ids_out + at, tl.where(broken > 0, BROKEN, chunk * BLOCK + index))


@triton.jit
def _best_of_row(values, ids, out, chunks, BROKEN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK)
    value = tl.load(values + row * chunks + chunk, mask=chunk < chunks, other=float("-inf"))
    winner = tl.argmax(value, 0)
    broken = tl.min(tl.load(ids + row * chunks + chunk, mask=chunk < chunks, other=0), 0) < 0
    tl.store(out + row, tl.where(broken, BROKEN, tl.load(ids + row * chunks + winner)).to(tl.int64))


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """One token id a row, int64 [rows], of logits [rows, vocabulary]: greedy at temperature 0, else drawn.

    BROKEN for a row with a logit that is not finite.
    """
    rows, vocabulary = logits.shape
    chunks = triton.cdiv(vocabulary, CHUNK)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    cuts = torch.empty(rows, dtype=torch.float32, device=logits.device)
    values = torch.empty((rows, chunks), dtype=torch.float32, device=logits.device)
    ids = torch.empty((rows, chunks), dtype=torch.int32, device=logits.device)
    if rows:
        stride = logits.stride(0)
        _cuts[(rows,)](
            logits, temperature, top_k, top_p, cuts, vocabulary, stride,
            SHIFT=ZERO_BITS.get(logits.dtype, 0), BLOCK=CUT_BLOCK, num_warps=32,
        )  # fmt: skip
        _best_of_chunk[(rows, chunks)](
            logits, temperature, cuts, seeds, positions, values, ids, vocabulary, stride,
            BROKEN=BROKEN, BLOCK=CHUNK, num_warps=8,
        )  # fmt: skip
        _best_of_row[(rows,)](
            values, ids, out, chunks, BROKEN=BROKEN, BLOCK=triton.next_power_of_2(chunks), num_warps=1
        )
    return out
