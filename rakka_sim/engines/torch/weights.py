"""Where a decoder's weights come from: a folder of safetensors in Hugging Face's names, or a seed. No arithmetic here.

One table, `pieces`, says for each tensor of a checkpoint which part of which parameter it becomes and how ranks share
it. Loading and random initialisation both walk it: a fused matrix is filled piece by piece, so that no second copy of a
model is ever held, and a random model is the same for any number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rakka_sim.engines.torch.architecture import DTYPES, Architecture
from rakka_sim.engines.torch.group import ALONE, Group
from rakka_sim.engines.torch.model import Decoder
from rakka_sim.errors import InputError

# Gate, up and down in checkpoints.
MLP_NAMES, MIXTRAL_NAMES = ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a checkpoint, and its place.

    `name`, `shape`: as in the checkpoint. `parameter`: the decoder's. `expert`: which one, where experts are stacked.
    `at`: the first row that this rank's part takes there. `axis`: what ranks split, None if each holds all of it;
    `part`, `parts`: this rank's share of that axis (KV heads may have fewer parts than there are ranks).
    """

    name: str
    shape: tuple[int, ...]
    parameter: str
    at: int = 0
    axis: int | None = None
    part: int = 0
    parts: int = 1
    expert: int | None = None

    def bounds(self) -> tuple[int, int]:
        """Where this rank's share of the axis begins and ends; the last share may be short, or empty."""
        whole = self.shape[self.axis or 0]
        each = -(-whole // self.parts)
        return min(whole, self.part * each), min(whole, (self.part + 1) * each)

    def place(self, parameters: dict[str, Tensor], take: Callable[[int | None, int, int], Tensor]) -> None:
        """Copy this rank's share, `take(axis, begin, end)` of the tensor, to where it belongs."""
        begin, end = self.bounds()
        target = parameters[self.parameter]
        if self.expert is not None:
            target = target[self.expert]
        share = take(self.axis, begin, end)
        rows, columns = share.shape[0], share.shape[-1]
        target = target[self.at : self.at + rows]
        (target if share.dim() == 1 else target[:, :columns]).copy_(share)


def pieces(architecture: Architecture, group: Group = ALONE) -> Iterator[Piece]:
    """Every tensor of a checkpoint of this architecture, and its place on this rank."""
    spec, rank, size = architecture.spec, group.rank, group.size
    vocab = (spec.vocab, spec.hidden)
    yield Piece("model.embed_tokens.weight", vocab, "embedding", 0, 0, rank, size)
    for layer in range(spec.layers):
        yield from _attention(architecture, group, f"model.layers.{layer}.", f"layers.{layer}.")
        yield from _feed_forward(architecture, group, layer)
    yield Piece("model.norm.weight", (spec.hidden,), "norm")
    if not spec.tied_embeddings:
        yield Piece("lm_head.weight", vocab, "head", 0, 0, rank, size)


def _attention(architecture: Architecture, group: Group, theirs: str, ours: str) -> Iterator[Piece]:
    spec, rank, size = architecture.spec, group.rank, group.size
    dim, hidden = spec.head_dim, spec.hidden
    yield Piece(f"{theirs}input_layernorm.weight", (hidden,), f"{ours}input_norm")
    yield Piece(f"{theirs}post_attention_layernorm.weight", (hidden,), f"{ours}post_norm")
    at, kv_parts = 0, min(size, spec.kv_heads)
    for kind, heads, parts in (("q", spec.heads, size), ("k", spec.kv_heads, kv_parts), ("v", spec.kv_heads, kv_parts)):
        part = rank * parts // size
        name, ours_qkv = f"{theirs}self_attn.{kind}_proj.", f"{ours}attention.qkv."
        yield Piece(f"{name}weight", (heads * dim, hidden), f"{ours_qkv}weight", at, 0, part, parts)
        if architecture.qkv_bias:
            yield Piece(f"{name}bias", (heads * dim,), f"{ours_qkv}bias", at, 0, part, parts)
        at += heads * dim // parts
    out = f"{theirs}self_attn.o_proj."
    yield Piece(f"{out}weight", (hidden, spec.heads * dim), f"{ours}attention.out.weight", 0, 1, rank, size)
    if architecture.out_bias and rank == 0:
        yield Piece(f"{out}bias", (hidden,), f"{ours}attention.out.bias")
    if spec.qk_norm:
        for kind in "qk":
            yield Piece(f"{theirs}self_attn.{kind}_norm.weight", (dim,), f"{ours}attention.{kind}_norm")


def _feed_forward(architecture: Architecture, group: Group, layer: int) -> Iterator[Piece]:
    spec = architecture.spec
    theirs, ours = f"model.layers.{layer}.mlp.", f"layers.{layer}.mlp."
    if not architecture.sparse[layer]:
        yield from _mlp(theirs, ours, spec.hidden, spec.intermediate, group, bias=spec.mlp_bias)
        return
    names = MLP_NAMES
    if spec.architecture == "MixtralForCausalLM":
        theirs, names = f"model.layers.{layer}.block_sparse_moe.", MIXTRAL_NAMES
    yield Piece(f"{theirs}gate.weight", (spec.experts, spec.hidden), f"{ours}router.weight")
    for expert in range(spec.experts):
        name = f"{theirs}experts.{expert}."
        yield from _mlp(name, ours, spec.hidden, spec.expert_intermediate, group, expert=expert, names=names)


def _mlp(
    theirs: str,
    ours: str,
    hidden: int,
    width: int,
    group: Group,
    bias: bool = False,
    expert: int | None = None,
    names: tuple[str, str, str] = MLP_NAMES,
) -> Iterator[Piece]:
    rank, size = group.rank, group.size
    end = ".weight" if expert is None else ""
    *inner, outer = names
    for at, kind in enumerate(inner):
        place = at * -(-width // size), 0, rank, size
        yield Piece(f"{theirs}{kind}.weight", (width, hidden), f"{ours}gate_up{end}", *place, expert)
        if bias:
            yield Piece(f"{theirs}{kind}.bias", (width,), f"{ours}gate_up.bias", *place)
    yield Piece(f"{theirs}{outer}.weight", (hidden, width), f"{ours}down{end}", 0, 1, rank, size, expert)
    if bias and rank == 0:
        yield Piece(f"{theirs}{outer}.bias", (hidden,), f"{ours}down.bias")


# --- a decoder with weights -------------------------------------------------------------------------------------


def load(
    folder: Path,
    architecture: Architecture,
    max_positions: int,
    *,
    dtype: str = "bfloat16",
    device: str = "cpu",
    group: Group = ALONE,
) -> Decoder:
    """The decoder that a folder of safetensors holds; raises InputError for one that does not hold all of it."""
    from safetensors import SafetensorError, safe_open

    decoder, parameters = _empty(architecture, max_positions, dtype, device, group)
    wanted = {piece.name: piece for piece in pieces(architecture, group)}
    for file, names in _files(folder, wanted).items():
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                for name in names:
                    _check_shape(file, wanted[name], opened.get_slice(name).get_shape())
                    wanted[name].place(parameters, _from_slice(opened.get_slice(name)))
        except (OSError, SafetensorError) as error:
            raise InputError(
                str(file), str(error), "a safetensors file with the tensors that its index names"
            ) from error
    return decoder


def random(
    architecture: Architecture,
    max_positions: int,
    seed: int = 0,
    *,
    dtype: str = "bfloat16",
    device: str = "cpu",
    group: Group = ALONE,
) -> Decoder:
    """A decoder of normal numbers, norms at one. Each tensor has a seed of its own, made of `seed` and its name, and is
    drawn whole before it is cut: the numbers depend on the kind of device, and neither on order nor on ranks."""
    decoder, parameters = _empty(architecture, max_positions, dtype, device, group)
    for piece in pieces(architecture, group):
        piece.place(parameters, _from_tensor(drawn(piece, architecture, seed, device)))
    return decoder


def drawn(piece: Piece, architecture: Architecture, seed: int, device: str) -> Tensor:
    """The whole tensor of that name in a random model, float32."""
    values = torch.ones(piece.shape, device=device)
    if "norm" not in piece.name:
        digest = hashlib.sha256(f"{seed}/{piece.name}".encode()).digest()
        stream = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        values.normal_(0.0, architecture.initializer_range, generator=stream)
    return values


def _empty(
    architecture: Architecture, max_positions: int, dtype: str, device: str, group: Group
) -> tuple[Decoder, dict[str, Tensor]]:
    if dtype not in DTYPES:
        raise InputError("dtype", dtype, ", ".join(DTYPES))
    with torch.device("meta"):
        decoder = Decoder(architecture, max_positions, group)
    for parameter in decoder.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    decoder = decoder.to_empty(device=device)
    if architecture.spec.tied_embeddings:
        decoder.head = decoder.embedding
    parameters: dict[str, Tensor] = {name: parameter.data for name, parameter in decoder.named_parameters()}
    for values in parameters.values():
        values.zero_()  # the rows that only round a width up
    decoder.set_angles()
    return decoder, parameters


def _files(folder: Path, wanted: dict[str, Piece]) -> dict[Path, list[str]]:
    """Which file holds which of the tensors wanted."""
    from safetensors import SafetensorError, safe_open

    held: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                names: list[str] = opened.keys()
                held.update(dict.fromkeys(names, file))
        except (OSError, SafetensorError) as error:
            raise InputError(str(file), str(error), "a readable safetensors file") from error
    missing = [name for name in wanted if name not in held]
    if missing:
        raise InputError(str(folder), f"no tensor {missing[0]} (and {len(missing) - 1} more)", "files that hold them")
    files: dict[Path, list[str]] = {}
    for name in wanted:
        files.setdefault(held[name], []).append(name)
    return files


def _check_shape(file: Path, piece: Piece, shape: list[int]) -> None:
    if tuple(shape) != piece.shape:
        raise InputError(f"{file}: {piece.name}", shape, f"the shape that config.json asks for, {list(piece.shape)}")


def _from_slice(view: Any) -> Callable[[int | None, int, int], Tensor]:
    """Reads from the file only what this rank needs."""
    return lambda axis, begin, end: view[:] if axis is None else view[begin:end] if axis == 0 else view[:, begin:end]


def _from_tensor(whole: Tensor) -> Callable[[int | None, int, int], Tensor]:
    return lambda axis, begin, end: whole if axis is None else whole.narrow(axis, begin, end - begin)
