"""Deployments in upstream's schema: what loads, what is inferred, and what a faulty one is told."""

from __future__ import annotations

import pytest

from rakka_sim.config.base import parse
from rakka_sim.config.deployment import Deployment, infer_runtime
from rakka_sim.errors import NotBuilt, ScenarioError
from rakka_sim.values import RuntimeKind, TransportKind


def deployment(**fields: object) -> Deployment:
    return parse(Deployment, {"name": "d", "model": "Llama-3.1-8B", **fields}, "file.toml")


def problems(**fields: object) -> list[tuple[str, object, str]]:
    with pytest.raises(ScenarioError) as caught:
        deployment(**fields)
    return [(p.where, p.value, p.allowed) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("gpt-4o-mini", RuntimeKind.OPENAI),
        ("gpt-3.5-turbo", RuntimeKind.OPENAI),
        ("o1-preview", RuntimeKind.OPENAI),
        ("o3-mini", RuntimeKind.OPENAI),
        ("chatgpt-4o-latest", RuntimeKind.OPENAI),
        ("claude-opus-4", RuntimeKind.ANTHROPIC),
        ("anthropic/claude", RuntimeKind.ANTHROPIC),
        ("gemini-2.5-pro", RuntimeKind.GEMINI),
        ("google/gemini-pro", RuntimeKind.GEMINI),
        ("litellm/gpt-4o", RuntimeKind.LITELLM),
        ("mistral-via-litellm", RuntimeKind.LITELLM),
        ("meta-llama/Llama-3.1-8B", RuntimeKind.TORCH),
        ("gpt-oss-120b", RuntimeKind.TORCH),
        ("my-gpt-4", RuntimeKind.TORCH),
    ],
)
def test_the_runtime_is_inferred_from_the_name(model: str, kind: RuntimeKind) -> None:
    assert infer_runtime(model) is kind


def test_an_explicit_runtime_wins() -> None:
    assert deployment(model="gpt-4o", runtime="vllm").transport is TransportKind.LOCAL_GPU
    assert deployment(model="llama", runtime="open_ai").transport is TransportKind.REMOTE_NETWORK
    tagged = deployment(model="gpt-4o", runtime_config={"runtime": "vllm", "max_num_seqs": 8})
    assert (tagged.runtime_kind, tagged.engine.max_num_seqs) == (RuntimeKind.VLLM, 8)


@pytest.mark.parametrize(
    "runtime", ["open_ai", "tensor_rt", "mistral_rs", "lite_llm", {"python": "xtts"}, "custom:mine"]
)
def test_upstream_spellings_load(runtime: object) -> None:
    assert deployment(runtime=runtime).runtime is not None


def test_a_remote_deployment_has_no_engine_here() -> None:
    remote = deployment(model="gpt-4o", runtime_config={"endpoint": "https://api.example/v1"})
    assert remote.gpus_per_replica == 0
    with pytest.raises(NotBuilt, match="remote tier"):
        _ = remote.engine


def test_upstream_defaults() -> None:
    given = deployment()
    assert (given.replicas, given.gpus_per_replica, given.idempotent) == (1, 1, True)
    assert (given.serving.max_concurrent, given.serving.on_capacity_exhausted) == (32, "queue")


def test_every_fault_is_named_with_its_key_value_and_what_is_allowed() -> None:
    found = problems(
        name="", replicas=0, runtime="cuda", serving={"max_concurrent": -1, "on_capacity_exhausted": "drop"}
    )
    by_key = {where.removeprefix("file.toml: "): (value, allowed) for where, value, allowed in found}
    assert set(by_key) == {"name", "replicas", "runtime", "serving.max_concurrent", "serving.on_capacity_exhausted"}
    assert by_key["replicas"] == (0, "greater than 0")
    assert by_key["serving.on_capacity_exhausted"][0] == "drop"
    assert "'reject', 'queue' or 'fallback'" in by_key["serving.on_capacity_exhausted"][1]
    assert "torch" in by_key["runtime"][1]


def test_a_misspelt_engine_setting_is_an_error_that_lists_the_keys() -> None:
    ((where, value, allowed),) = problems(runtime_config={"max_num_seq": 4})
    assert where == "file.toml: runtime_config.max_num_seq"
    assert value == 4
    assert "max_num_seqs" in allowed


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "gpt-4o", "gpus": 1}, "leave it out"),
        ({"serving": {"on_capacity_exhausted": "fallback"}}, "needs fallback"),
        ({"runtime_config": {"max_num_seqs": 4096}}, "max_num_batched_tokens"),
        ({"runtime_config": {"enable_chunked_prefill": False}}, "max_model_len"),
        ({"runtime_config": {"gpu_memory_utilization": 1.5}}, "less than or equal to 1"),
        ({"runtime_config": {"startup_s": float("inf")}}, "finite"),
    ],
)
def test_what_cannot_be_together(fields: dict[str, object], words: str) -> None:
    assert words in problems(**fields)[0][2]
