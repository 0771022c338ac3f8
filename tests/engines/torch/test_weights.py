"""Weights: every rank's share, and the same random numbers whatever the number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engines.torch.models import ARCHITECTURES, POSITIONS, architecture, folder, ours
from safetensors.torch import load_file, save_file

from rakka_sim.engines.torch import weights
from rakka_sim.engines.torch.group import Group
from rakka_sim.engines.torch.model import Decoder
from rakka_sim.errors import InputError

PARTS = (("embedding", 0), ("head", 0), ("out.weight", 1), ("down.weight", 1), ("mlp.down", 2))


def joined(name: str, shards: list[torch.Tensor], decoder: Decoder) -> torch.Tensor:
    """All ranks' shares of a parameter as the one of a single rank; fused ones piece by piece."""
    spec, ranks = decoder.architecture.spec, len(shards)
    for ending, axis in PARTS:
        if name.endswith(ending):
            return torch.cat(shards, dim=axis)
    if ".qkv." in name:
        sizes = [spec.heads // ranks * spec.head_dim, *[max(1, spec.kv_heads // ranks) * spec.head_dim] * 2]
        q, k, v = zip(*(shard.split(sizes) for shard in shards), strict=True)
        copies = max(1, ranks // spec.kv_heads)
        return torch.cat([*q, *k[::copies], *v[::copies]])
    if "gate_up" in name:
        axis = 1 if "weight" not in name and "bias" not in name else 0
        gates, ups = zip(*(shard.chunk(2, dim=axis) for shard in shards), strict=True)
        return torch.cat([*gates, *ups], dim=axis)
    return shards[0]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_ranks_shares_make_the_whole(name: str, ranks: int) -> None:
    whole = dict(ours(name).named_parameters())
    shards = [ours(name, group=Group(rank, ranks)) for rank in range(ranks)]
    shares = [dict(shard.named_parameters()) for shard in shards]
    for parameter, values in whole.items():
        if parameter.endswith(("out.bias", "down.bias")):
            assert [parameter in share for share in shares] == [True] + [False] * (ranks - 1)
            continue
        assert torch.equal(joined(parameter, [share[parameter].data for share in shares], shards[0]), values)


def test_random_weights_depend_on_their_names_alone() -> None:
    about = architecture("qwen3-moe")
    whole = weights.random(about, POSITIONS, dtype="float32")
    again = weights.random(about, POSITIONS, dtype="float32")
    other = weights.random(about, POSITIONS, seed=1, dtype="float32")
    halves = [weights.random(about, POSITIONS, dtype="float32", group=Group(rank, 2)) for rank in range(2)]
    for name, values in whole.named_parameters():
        assert torch.equal(values, dict(again.named_parameters())[name])
        assert torch.equal(
            values, joined(name, [dict(half.named_parameters())[name].data for half in halves], halves[0])
        )
        if "norm" not in name:
            assert not torch.equal(values, dict(other.named_parameters())[name])
            assert float(values.std()) == pytest.approx(about.initializer_range, rel=0.1)
    layers = dict(whole.named_parameters())
    assert not torch.equal(layers["layers.0.attention.out.weight"], layers["layers.1.attention.out.weight"])


def test_rows_that_round_the_vocabulary_up_are_zero() -> None:
    about = architecture("qwen2")  # 320 rows on 3 ranks would be 107 each; the heads do not divide, so look at a piece
    piece = next(weights.pieces(about, Group(2, 3)))
    assert piece.bounds() == (214, 320)
    assert next(weights.pieces(about, Group(0, 3))).bounds() == (0, 107)


def a_folder(tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    tensors = load_file(folder("llama") / "model.safetensors")
    for name, values in changes.items():
        if values is None:
            del tensors[name]
        else:
            tensors[name] = values
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        weights.load(path, architecture("llama"), POSITIONS, dtype="float32")
    return str(caught.value)


def test_a_folder_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    assert "model.norm.weight" in refused(a_folder(tmp_path, **{"model.norm.weight": None}))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    said = refused(a_folder(tmp_path, **{"model.norm.weight": torch.ones(63)}))
    assert "model.norm.weight" in said
    assert "[64]" in said


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not at all")
    assert "model.safetensors" in refused(tmp_path)


def test_files_may_hold_the_tensors_in_any_way(tmp_path: Path) -> None:
    tensors = load_file(folder("llama") / "model.safetensors")
    names = sorted(tensors)
    for part in range(3):
        save_file({name: tensors[name] for name in names[part::3]}, tmp_path / f"model-{part}.safetensors")
    split = weights.load(tmp_path, architecture("llama"), POSITIONS, dtype="float32")
    for (name, values), (_, theirs) in zip(split.named_parameters(), ours("llama").named_parameters(), strict=True):
        assert torch.equal(values, theirs), name


def test_a_dtype_nobody_has_is_refused() -> None:
    with pytest.raises(InputError, match="float32"):
        weights.random(architecture("llama"), POSITIONS, dtype="int3")
