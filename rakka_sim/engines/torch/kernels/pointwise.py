"""RMS norm with the residual's addition, and SiLU times gate: one pass over memory each. No attention, no positions."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm(
    x, residual, weight, out, total, eps, width, stride_x, stride_residual, ADD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: one token. The sum is rounded first, so that the next layer adds to what was normed here."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    there = column < width
    value = tl.load(x + row * stride_x + column, mask=there, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + row * stride_residual + column, mask=there, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * width + column, rounded, mask=there)
        value = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    normed = value * scale * tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, normed.to(out.dtype.element_ty), mask=there)


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(norm of x + residual, x + residual), [tokens, hidden] each; one program a token."""
    tokens, width = x.shape
    out = torch.empty((tokens, width), dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(out)
    added = x if residual is None else residual
    block = triton.next_power_of_2(width)
    if tokens:
        _rms_norm[(tokens,)](
            x, added, weight, out, total, eps, width, x.stride(0), added.stride(0),
            ADD=residual is not None, BLOCK=block, num_warps=min(16, max(1, block // 512)),
        )  # fmt: skip
    return out, total


@triton.jit
def _silu_mul(gate_up, out, width, stride, BLOCK: tl.constexpr):
    """One program: a part of one token's width; its gate lies `width` before its up."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    gate = tl.load(gate_up + row * stride + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + width + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=there)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [tokens, 2 * width]; [tokens, width]."""
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((tokens, width), dtype=gate_up.dtype, device=gate_up.device)
    block = min(1024, triton.next_power_of_2(width))
    if tokens:
        _silu_mul[(tokens, triton.cdiv(width, block))](gate_up, out, width, gate_up.stride(0), BLOCK=block, num_warps=4)
    return out
