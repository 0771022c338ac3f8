"""How fast the live engine is, beside what the machine could do at best, and what the actors around it cost.

Six questions, each a part that can be chosen with `--only`:

decode   tokens/s of a runner alone, by batch and context: the model, no actor, no process.
prefill  tokens/s of prompts, by length.
serve    256 requests of 100 to 1,024 tokens in and out (seed 0), all there at once, through every actor and a process.
actors   microseconds per step that actors and process add: the same requests with a runner in a bare loop, through all
         of it with runs of steps, and without runs. And what `gap` prints.
gap      microseconds from the end of a plan's last step until the worker is at the next plan, where every step is a
         plan of its own, with the next plan made ahead (`async_scheduling`) and without.
theirs   transformers on the same weights: `generate` with a static cache, and its continuous batching.

A bound is max(weights / bandwidth, matrices / arithmetic) + KV / bandwidth, with this machine's own bandwidth and
arithmetic, measured by a copy and a matrix product at the start. Weights are random; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about import write

from rakka_sim.actors.client import Go, LoadGenerator
from rakka_sim.config.loading import load_scenario
from rakka_sim.config.models import model_spec
from rakka_sim.core.batching import Batcher, BatchingLimits, Preempted, Sampled, SequenceSpec
from rakka_sim.core.feed import TokenFeed
from rakka_sim.core.kv import KvCache
from rakka_sim.engines.processes import ProcessRunner
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.torch.building import device_of, make_runner
from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.engines.wire import Done, Work
from rakka_sim.messages import Apply
from rakka_sim.records import EventLog
from rakka_sim.report.report import Report
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.values import GREEDY_TO_THE_END, ExecuteBatch, FedSequence, StepFeed, StepOutcome, StepPlan, StepRow
from rakka_sim.wiring import MakeRunner, build, live
from rakka_sim.workload.scribe import Scribe

BLOCK = 16
PARTS = ("decode", "prefill", "serve", "actors", "gap", "theirs")


class Machine:
    """The device and what it can do at best: bytes/s of a copy, operations/s of a matrix product."""

    def __init__(self, device: str, dtype: str) -> None:
        self.device, self.cuda = torch.device(device), device != "cpu"
        kind = getattr(torch, dtype)
        size, side = (1 << 30, 8192) if self.cuda else (1 << 26, 1024)
        source = torch.ones(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        self.bandwidth = 2 * size / self.time(lambda: target.copy_(source))
        one = torch.randn(side, side, device=device, dtype=kind)
        self.flops = 2 * side**3 / self.time(lambda: one @ one)

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def time(self, work: Callable[[], object], repeats: int = 7) -> float:
        """Seconds of the fastest of some repeats, after one to warm up."""
        seconds = []
        for _ in range(repeats + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    def about(self) -> dict[str, Any]:
        """For the record."""
        known: dict[str, Any] = {
            "device": str(self.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        if self.cuda:
            known |= {"device": torch.cuda.get_device_name(), "clock_mhz": torch.cuda.clock_rate()}
        return known | {"copy_gb_s": self.bandwidth / 1e9, "matmul_tflop_s": self.flops / 1e12}

    def bound_s(self, model: str, dtype: str, tokens: int, context: int, sampled: int) -> float:
        """Seconds that a step cannot beat; `context` is the sum over its sequences."""
        spec = model_spec(model)
        matrices = spec.linear_parameters - spec.sparse_layers * (
            spec.experts - min(spec.experts, spec.experts_per_token * tokens)
        ) * (spec.expert_parameters if spec.experts else 0)
        size = 4 if dtype == "float32" else 2
        weights = (matrices + spec.head_parameters) * size
        work = tokens * 2 * (spec.active_parameters - spec.embedding_parameters - spec.head_parameters)
        work += sampled * 2 * spec.head_parameters
        return (
            max(weights / self.bandwidth, work / self.flops) + context * spec.kv_bytes_per_token(dtype) / self.bandwidth
        )


def decode_plan(batch: int, context: int, steps: int) -> StepPlan:
    """A run of decode steps of equal sequences."""
    rows = [StepRow(n, 1, context, True) for n in range(batch)]
    return StepPlan(rows, steps, 0, batch, batch * context, context, batch, 0, 0)


def fed(batch: int, tokens: int, pages: int, vocab: int) -> StepFeed:
    """Sequences of random tokens, each with pages of its own."""
    ids = np.random.default_rng(0).integers(0, vocab, (batch, tokens)).tolist()
    new = tuple(FedSequence(n, tuple(ids[n]), GREEDY_TO_THE_END, n, tokens) for n in range(batch))
    return StepFeed(new, {n: (0, tuple(range(n * pages, (n + 1) * pages))) for n in range(batch)}, ())


def decode(machine: Machine, recipe: Recipe, shapes: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """A runner alone, by batch and context."""
    steps = 32 if machine.cuda else 16
    vocab = model_spec(recipe.name).vocab
    for batch, context in shapes:
        pages = -(-(context + steps + 1) // BLOCK)
        runner = make_runner(replace(recipe, blocks=batch * pages, max_positions=pages * BLOCK, max_rows=batch))
        plan, feed = decode_plan(batch, context, steps), fed(batch, context + 1, pages, vocab)
        seconds = machine.time(partial(runner.run, plan, feed, steps), 5) / steps
        bound = machine.bound_s(recipe.name, recipe.dtype, batch, batch * context, batch)
        yield {
            "part": "decode", "model": recipe.name, "batch": batch, "context": context, "step_ms": seconds * 1e3,
            "tokens_s": batch / seconds, "share_of_bound": bound / seconds,
        }  # fmt: skip


def prefill(machine: Machine, recipe: Recipe, lengths: list[int]) -> Iterator[dict[str, Any]]:
    """One prompt at once."""
    vocab = model_spec(recipe.name).vocab
    for length in lengths:
        pages = -(-(length + 1) // BLOCK)
        runner = make_runner(replace(recipe, blocks=pages, max_positions=length + 1, max_rows=1))
        plan = StepPlan([StepRow(0, length, 0, True)], 1, length, 0, 0, 0, 1, 0, 0)
        feed = fed(1, length, pages, vocab)
        seconds = machine.time(partial(runner.run, plan, feed, 1), 5)
        bound = machine.bound_s(recipe.name, recipe.dtype, length, length, 1)
        yield {
            "part": "prefill", "model": recipe.name, "tokens": length, "step_ms": seconds * 1e3,
            "tokens_s": length / seconds, "share_of_bound": bound / seconds,
        }  # fmt: skip


# --- whole requests ---------------------------------------------------------------------------------------------


def scenario_of(recipe: Recipe, **settings: Any) -> dict[str, Any]:
    """One engine for a batch of requests, without a front end."""
    engine = {
        "num_gpu_blocks": recipe.blocks, "max_model_len": recipe.max_positions, "max_num_seqs": recipe.max_rows,
        "max_num_batched_tokens": 8192, "dtype": recipe.dtype, "device": recipe.device, "cpu_threads": recipe.threads,
        "frontend_overhead_us": 0.0, "enable_prefix_caching": False, **settings,
    }  # fmt: skip
    deployment = {"name": "m", "model": recipe.name, "runtime_config": engine, "serving": {"max_concurrent": 100_000}}
    return {"cluster": {"nodes": [{"name": "here", "gpu": "H200", "gpus": 1}]}, "deployment": [deployment]}


class AllAtOnce:
    """Requests that are all there from the beginning."""

    def __init__(self, requests: list[ExecuteBatch]) -> None:
        self.requests = list(requests)
        self.total = len(requests)

    @property
    def exhausted(self) -> bool:
        return not self.requests

    def peek(self) -> float | None:
        return 0.0 if self.requests else None

    def pop(self) -> ExecuteBatch:
        return self.requests.pop(0)

    def ended(self, request_id: int, now: float, output_tokens: int) -> None:
        """Nothing follows."""


def requests_of(lengths: list[tuple[int, int]]) -> list[ExecuteBatch]:
    """Requests by prompt and output tokens."""
    return [
        ExecuteBatch(n, "m", prompt, output, ((n * 4, prompt),), GREEDY_TO_THE_END)
        for n, (prompt, output) in enumerate(lengths, 1)
    ]


class Watched(ProcessRunner):
    """Keeps when the worker came to each plan, and when it had done with it (s)."""

    spans: list[tuple[float, float]]

    def compute(self, work: Work) -> Done:
        done = super().compute(work)
        self.__dict__.setdefault("spans", []).append((done.began, float(done.times[-1])))
        return done


@contextmanager
def serving(
    recipe: Recipe, make_runner: MakeRunner = live, **settings: Any
) -> Iterator[Callable[[list[tuple[int, int]]], tuple[float, Report]]]:
    """A live stack of one engine; calling it serves requests and gives the seconds that took."""
    scenario, _ = load_scenario(scenario_of(recipe, **settings))
    vocab = model_spec(recipe.name).vocab
    with ThreadPoolExecutor(4) as waiting:
        system, log = LiveRuntime(executor=waiting), EventLog()
        try:
            stack = build(system, scenario, log, make_runner, real_tokens=True, real_launch=True)
            status = system.ask(stack.manager, Apply(scenario.deployment[0]), 3600.0)
            if status.error is not None:
                raise status.error
            count = 0

            def serve(lengths: list[tuple[int, int]]) -> tuple[float, Report]:
                nonlocal count
                count += 1
                batches = [replace(one, request_id=one.request_id + count * 10**6) for one in requests_of(lengths)]
                done = system.promise(f"done-{count}")
                generator = LoadGenerator(AllAtOnce(batches), stack.gateway, done.ref, None, Scribe(vocab))
                client = system.spawn(f"client-{count}", lambda: generator)
                start = time.perf_counter()
                system.tell(client, Go())
                system.wait(done)
                return time.perf_counter() - start, Report(log)

            yield serve
        finally:
            system.stop()


def serve(machine: Machine, recipe: Recipe, count: int, most: int) -> Iterator[dict[str, Any]]:
    """As nano-vllm's bench.py: `count` requests of 100 to `most` tokens in and out, seed 0."""
    import random

    draw = random.Random(0)
    prompts = [draw.randint(min(100, most), most) for _ in range(count)]
    lengths = [(prompt, draw.randint(min(100, most), most)) for prompt in prompts]
    with serving(recipe) as served:
        served([(16, 4)] * 8)
        seconds, _ = served(lengths)
    output = sum(out for _, out in lengths)
    yield {
        "part": "serve", "model": recipe.name, "requests": count, "prompt_tokens": sum(p for p, _ in lengths),
        "output_tokens": output, "seconds": seconds, "tokens_s": output / seconds,
    }  # fmt: skip


# --- what the actors cost ---------------------------------------------------------------------------------------


def bare_loop(runner: ModelRunner, recipe: Recipe, lengths: list[tuple[int, int]], runs: bool) -> tuple[float, int]:
    """The same cores and the same runner in a loop: seconds, and steps. Nothing but actors and process is left out."""
    kv = KvCache(recipe.blocks, BLOCK, prefix_caching=False)
    batcher = Batcher(BatchingLimits(recipe.max_rows, 8192, recipe.max_positions), kv, runs)
    vocab = model_spec(recipe.name).vocab
    feed, scribe, steps = TokenFeed(kv, vocab), Scribe(vocab), 0
    for batch in map(scribe.write, requests_of(lengths)):
        spec = SequenceSpec(batch.request_id, batch.prompt_tokens, batch.output_tokens, batch.content)
        batcher.add(spec)
        feed.add(batch, ())
    start = time.perf_counter()
    while (plan := batcher.plan()) is not None:
        done = runner.run(plan, feed.inputs(plan, batcher.promised_blocks(plan)), plan.steps)
        ended = feed.took(StepOutcome(plan, 0.0, np.empty(done.steps), done.tokens, done.broken))
        for event in batcher.commit(done.steps, ended):
            if isinstance(event, Sampled):
                feed.say(event.request_id, event.count)
                if event.finish is not None:
                    feed.drop(event.request_id)
            elif isinstance(event, Preempted):
                feed.unseat(event.request_id)
        steps += done.steps
    return time.perf_counter() - start, steps


def actors(machine: Machine, recipe: Recipe, batch: int, output: int, repeats: int) -> Iterator[dict[str, Any]]:
    """On and off, the fastest of repeats taken in turn. `cpu_us` is this process's own time: the actors' work, without
    the waiting; the worker's is in another process."""
    lengths = [(16, output)] * batch
    runner = make_runner(recipe)
    bare, through = [], {"runs": [], "single steps": []}  # type: ignore[var-annotated]
    with serving(recipe) as with_runs, serving(recipe, runs_of_steps=False) as singly:
        for _ in range(repeats + 1):
            seconds, steps = bare_loop(runner, recipe, lengths, True)
            bare.append(seconds / steps)
            for how, served in (("runs", with_runs), ("single steps", singly)):
                before = time.process_time()
                wall = served(lengths)[0]
                through[how].append((wall / steps, (time.process_time() - before) / steps))
    for how, times in through.items():
        wall, cpu = (min(column) for column in zip(*times[1:], strict=True))
        yield {
            "part": "actors", "model": recipe.name, "batch": batch, "steps": steps, "how": how,
            "bare_step_us": min(bare[1:]) * 1e6, "step_us": wall * 1e6, "added_us": (wall - min(bare[1:])) * 1e6,
            "cpu_us": cpu * 1e6,
        }  # fmt: skip


@contextmanager
def apart(runner: ProcessRunner) -> Iterator[None]:
    """This process and the worker on a core each, as on a machine that has enough of them; else they take turns."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    mine = [int(thread) for thread in os.listdir("/proc/self/task")] if len(cores) > 1 else []
    theirs = [int(thread) for pid in runner.pids for thread in os.listdir(f"/proc/{pid}/task")] if mine else []
    for core, threads in zip(cores, (mine, theirs), strict=False):
        for thread in threads:
            os.sched_setaffinity(thread, {core})
    try:
        yield
    finally:
        for thread in mine:
            os.sched_setaffinity(thread, cores)


def gaps(recipe: Recipe, batch: int, output: int, repeats: int) -> Iterator[dict[str, Any]]:
    """What a worker waits between two plans of one step each, taken in turn with and without one ahead of the host."""
    lengths, found = [(16, output)] * batch, {True: [], False: []}  # type: ignore[var-annotated]
    for _ in range(repeats):
        for ahead, waits in found.items():
            runners: list[Watched] = []

            def watched(deployment: Any, node: Any, plan: Any, runners: list[Watched] = runners) -> Any:
                made = Recipe.of(deployment, plan.limits.max_model_len, plan.kv_blocks, plan.gpus)
                return lambda: runners.append(Watched.start(made, 60.0)) or runners[-1]

            with serving(recipe, watched, stream_interval_s=0.0, async_scheduling=ahead) as served:
                served(lengths)
                (runner,) = runners
                with apart(runner):
                    runner.spans.clear()
                    served(lengths)
                spans = np.array(runner.spans)
            waits.append((spans[1:, 0] - spans[:-1, 1]) * 1e6)
    for ahead, waits in found.items():
        wait = np.concatenate(waits)
        p10, p50, p90 = np.percentile(wait, (10, 50, 90))
        yield {
            "part": "gap", "model": recipe.name, "batch": batch, "async_scheduling": ahead, "gaps": len(wait),
            "gap_p10_us": float(p10), "gap_p50_us": float(p50), "gap_p90_us": float(p90),
            "gap_mean_us": float(wait.mean()), "load": os.getloadavg()[0],
        }  # fmt: skip


def theirs(machine: Machine, recipe: Recipe, batch: int, prompt: int, output: int) -> Iterator[dict[str, Any]]:
    """transformers with the same shapes, random weights and prompts of equal length."""
    try:
        import transformers
    except ModuleNotFoundError:
        print("theirs: transformers is not installed")
        return
    given = {key: value for key, value in recipe.config.items() if key != "architectures"}
    kind = recipe.config["architectures"][0].removesuffix("ForCausalLM")
    config = getattr(transformers, f"{kind}Config")(**given)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, recipe.dtype))
    model = model.to(machine.device).eval()
    ids = torch.randint(config.vocab_size, (batch, prompt), device=machine.device)
    settings = {"max_new_tokens": output, "min_new_tokens": output, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    seconds = machine.time(
        lambda: model.generate(ids, attention_mask=mask, cache_implementation="static", **settings), 1
    )
    ours = make_runner(replace(recipe, max_rows=batch))
    our_seconds = min(bare_loop(ours, recipe, [(prompt, output)] * batch, True)[0] for _ in range(2))
    yield {
        "part": "theirs", "model": recipe.name, "batch": batch, "prompt": prompt, "output": output,
        "how": f"generate, static cache, attention {model.config._attn_implementation}",
        "tokens_s": batch * output / seconds, "our_bare_tokens_s": batch * output / our_seconds,
    }  # fmt: skip
    if machine.cuda:
        from transformers import GenerationConfig

        config = GenerationConfig(max_new_tokens=output, do_sample=False, eos_token_id=-1, pad_token_id=0)
        seconds = machine.time(lambda: model.generate_batch(inputs=ids.tolist(), generation_config=config), 1)
        yield {
            "part": "theirs", "model": recipe.name, "batch": batch, "prompt": prompt, "output": output,
            "how": f"continuous batching, attention {model.config._attn_implementation}",
            "tokens_s": batch * output / seconds,
        }  # fmt: skip


# --- which cases ------------------------------------------------------------------------------------------------


def recipe_of(model: str, dtype: str, device: str, blocks: int, positions: int, rows: int, threads: int) -> Recipe:
    """A random model."""
    from rakka_sim.config.models import hf_config

    return Recipe(
        model, dict(hf_config(model)[0]), None, positions, blocks, BLOCK, dtype, rows, device=device, threads=threads
    )


def cases(machine: Machine, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All that was asked for, one after the other."""
    only, quick = arguments.only or PARTS, arguments.quick
    for model in arguments.model or (["Llama-3.1-8B", "Qwen3-0.6B"] if machine.cuda else ["Tiny"]):
        large = machine.cuda
        blocks = 40_000 if large else 2048
        rows, positions = (256, 4096) if large else (32, 2048)
        device = "cuda" if machine.cuda else "cpu"
        recipe = recipe_of(model, arguments.dtype, device, blocks, positions, rows, arguments.threads)
        shapes = [(1, 1024), (64, 1024), (256, 1024)] if large else [(1, 256), (8, 256), (32, 256)]
        if "decode" in only:
            yield from decode(machine, recipe, shapes[:2] if quick else shapes)
        if "prefill" in only:
            yield from prefill(machine, recipe, [2048, 8192] if large else [128, 512])
        if "actors" in only:
            yield from actors(machine, recipe, 64 if large else 8, 64 if quick else 256, 2 if quick else 5)
        if "actors" in only or "gap" in only:
            yield from gaps(recipe, 64 if large else 8, 64 if quick else 256, 1 if quick else 3)
        if "serve" in only:
            yield from serve(machine, recipe, 256 if large else 32, 1024 if large else 200)
        if "theirs" in only:
            yield from theirs(machine, recipe, 32 if large else 8, 512 if large else 64, 128 if large else 64)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repeats")
    parser.add_argument("--model", action="append", help="a preset; may be given several times")
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", help="default: bfloat16 on CUDA, float32 on a CPU")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU")
    arguments = parser.parse_args()
    probe = recipe_of("Tiny", "float32", arguments.device, 1, 16, 1, arguments.threads)
    device = device_of(probe)
    arguments.dtype = arguments.dtype or ("float32" if device == "cpu" else "bfloat16")
    torch.set_num_threads(arguments.threads)
    machine = Machine(device, arguments.dtype)
    print({key: round(value, 1) if isinstance(value, float) else value for key, value in machine.about().items()})
    found = []
    for case in cases(machine, arguments):
        found.append(case)
        print("  ".join(f"{key} {f'{it:,.3f}' if isinstance(it, float) else it}" for key, it in case.items()))
    if arguments.json:
        write(arguments.json, "live", {"device": machine.about(), "dtype": arguments.dtype, "found": found}, seed=0)


if __name__ == "__main__":
    main()
