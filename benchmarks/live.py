"""How fast the live engine is, beside what the machine could do at best, and what the actors around it cost.

Six questions, each a part that can be chosen with `--only`:

decode   tokens/s of a runner alone, by batch and context: the model, no actor, no process.
prefill  tokens/s of prompts, by length.
serve    256 requests of 100 to 1,024 tokens in and out (seed 0), all there at once, through every actor and a process.
actors   microseconds per step that actors and process add: the same requests with a runner in a bare loop, through all
         of it with runs of steps, and without runs. And what `gap` prints.
gap      microseconds from the end of a plan's last step until the worker is at the next plan, where every step is a
         plan of its own, with the next plan made ahead (`async_scheduling`) and without; before steps that decode
         alone, and before steps with prompts.
theirs   transformers on the same weights: `generate` with a static cache, and its continuous batching.

A bound is max(weights / bandwidth, matrices / arithmetic) + KV / bandwidth, with this machine's own bandwidth and
arithmetic, measured by a copy and a matrix product at the start. Weights are random; nothing is downloaded.

Figures are written after every part, and with `--update` they replace those of the same part, model and device in a
file that is there already: the whole can be run in slices. What fails is recorded with its error, and the next part
begins.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
from rakka_sim.engines.torch import weights
from rakka_sim.engines.torch.architecture import architecture_of
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
            known |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, CLOCKS: _clocks()}
        return known | {"copy_gb_s": self.bandwidth / 1e9, "matmul_tflop_s": self.flops / 1e12}

    def bound_s(self, model: str, dtype: str, tokens: int, context: float, sampled: int) -> float:
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


CLOCKS = "clocks.sm,clocks.mem,power.draw,temperature.gpu"


def _clocks() -> str:
    smi = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        return subprocess.run(smi, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as failed:
        return f"unknown: {failed}"


def release() -> None:
    """Give memory back to the device: a runner that is no more lies in a cycle, and PyTorch keeps what it had."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def decode_plan(batch: int, context: int, steps: int) -> StepPlan:
    """A run of decode steps of equal sequences."""
    rows = [StepRow(n, 1, context, True) for n in range(batch)]
    return StepPlan(rows, steps, 0, batch, batch * context, context, batch, 0, 0)


def fed(batch: int, tokens: int, pages: int, vocab: int) -> StepFeed:
    """Sequences of random tokens, each with pages of its own."""
    ids = np.random.default_rng(0).integers(0, vocab, (batch, tokens)).tolist()
    new = tuple(FedSequence(n, tuple(ids[n]), GREEDY_TO_THE_END, n, tokens) for n in range(batch))
    return StepFeed(new, {n: (0, tuple(range(n * pages, (n + 1) * pages))) for n in range(batch)}, ())


NOTHING_NEW = StepFeed((), {}, ())


def decode(machine: Machine, recipe: Recipe, shapes: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """A runner alone, by batch and context; its cache is full of random numbers."""
    steps = 64 if machine.cuda else 16
    vocab = model_spec(recipe.name).vocab
    pages = [-(-(context + steps + 1) // BLOCK) for _, context in shapes]
    blocks = max(batch * count for (batch, _), count in zip(shapes, pages, strict=True))
    most = max(batch for batch, _ in shapes)
    runner = make_runner(replace(recipe, blocks=blocks, max_positions=max(pages) * BLOCK, max_rows=most))
    for layer in runner._pool.memory:
        layer.normal_()
    for (batch, context), count in zip(shapes, pages, strict=True):
        plan = decode_plan(batch, context, steps)
        runner.run(plan, fed(batch, context + 1, count, vocab), steps)
        seconds = machine.time(partial(runner.run, plan, NOTHING_NEW, steps), 5) / steps
        read = batch * (context + (steps + 1) / 2)  # tokens of all contexts, in the mean over the steps
        bound = machine.bound_s(recipe.name, recipe.dtype, batch, read, batch)
        yield {
            "part": "decode", "model": recipe.name, "batch": batch, "context": context, "step_ms": seconds * 1e3,
            "tokens_s": batch / seconds, "bound_ms": bound * 1e3, "share_of_bound": bound / seconds,
        }  # fmt: skip


def prefill(machine: Machine, recipe: Recipe, lengths: list[int]) -> Iterator[dict[str, Any]]:
    """One prompt at once."""
    vocab = model_spec(recipe.name).vocab
    pages = -(-(max(lengths) + 1) // BLOCK)
    runner = make_runner(replace(recipe, blocks=pages, max_positions=max(lengths) + 1, max_rows=1))
    for length in lengths:
        plan = StepPlan([StepRow(0, length, 0, True)], 1, length, 0, 0, 0, 1, 0, 0)
        runner.run(plan, fed(1, length, pages, vocab), 1)
        seconds = machine.time(partial(runner.run, plan, NOTHING_NEW, 1), 5)
        bound = machine.bound_s(recipe.name, recipe.dtype, length, length, 1)
        yield {
            "part": "prefill", "model": recipe.name, "tokens": length, "step_ms": seconds * 1e3,
            "tokens_s": length / seconds, "bound_ms": bound * 1e3, "share_of_bound": bound / seconds,
        }  # fmt: skip


# --- whole requests ---------------------------------------------------------------------------------------------


def blocks_of(lengths: list[tuple[int, int]]) -> int:
    """What these requests need when all of them are there at once."""
    return sum(-(-(prompt + output) // BLOCK) + 1 for prompt, output in lengths)


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
    """Keeps when the worker came to each plan, and when it had done with it (s), and the plan's prompt tokens."""

    spans: list[tuple[float, float, int]]

    def compute(self, work: Work) -> Done:
        done = super().compute(work)
        self.__dict__.setdefault("spans", []).append((done.began, float(done.times[-1]), work.plan.prefill_tokens))
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
    # There the ids of a prompt come from the same stream as its length: so many numbers lie between two lengths.
    prompts = [len([draw.randint(0, 10_000) for _ in range(draw.randint(min(100, most), most))]) for _ in range(count)]
    lengths = [(prompt, draw.randint(min(100, most), most)) for prompt in prompts]
    recipe = replace(recipe, blocks=blocks_of(lengths))
    with serving(recipe) as served:
        # Batches of every size, so that no graph is left to be recorded.
        warm, _ = served([(16, output) for output in range(1, count + 1)])
        seconds, _ = served(lengths)
    output, bound = sum(out for _, out in lengths), serve_bound_s(machine, recipe, lengths)
    yield {
        "part": "serve", "model": recipe.name, "requests": count, "prompt_tokens": sum(p for p, _ in lengths),
        "output_tokens": output, "seconds": seconds, "tokens_s": output / seconds, "bound_s": bound,
        "share_of_bound": bound / seconds, "warm_up_s": warm,
    }  # fmt: skip


def serve_bound_s(machine: Machine, recipe: Recipe, lengths: list[tuple[int, int]]) -> float:
    """Seconds that such requests cannot beat: all prompts at once, then steps of all that are not at their end."""
    prompts, outputs = (np.array(column) for column in zip(*lengths, strict=True))
    bound = machine.bound_s(recipe.name, recipe.dtype, int(prompts.sum()), 0, len(lengths))
    for step in range(1, int(outputs.max())):
        going = outputs > step
        rows, context = int(going.sum()), float((prompts[going] + step).sum())
        bound += machine.bound_s(recipe.name, recipe.dtype, rows, context, rows)
    return bound


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
    recipe = replace(recipe, blocks=blocks_of(lengths), max_rows=batch)  # three engines at once
    runner = make_runner(recipe)
    bare, through = [], {"runs": [], "single steps": []}  # type: ignore[var-annotated]
    with serving(recipe) as with_runs, serving(recipe, runs_of_steps=False, async_scheduling=False) as singly:
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
            "added_share": wall / min(bare[1:]) - 1, "cpu_us": cpu * 1e6,
        }  # fmt: skip


@contextmanager
def apart(runner: ProcessRunner) -> Iterator[None]:
    """This process and the worker on a core each, as on a machine that has enough of them; else they take turns."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    mine = [int(thread) for thread in os.listdir("/proc/self/task")] if len(cores) > 1 else []
    theirs = [int(thread) for pid in runner.pids for thread in os.listdir(f"/proc/{pid}/task")] if mine else []
    for core, threads in zip(cores, (mine, theirs), strict=False):
        _pin(threads, [core])
    try:
        yield
    finally:
        _pin(mine, cores)


def _pin(threads: list[int], cores: list[int]) -> None:
    for thread in threads:
        with suppress(OSError):  # it may be gone by now
            os.sched_setaffinity(thread, cores)


def gaps(recipe: Recipe, batch: int, output: int, repeats: int) -> Iterator[dict[str, Any]]:
    """What a worker waits between two plans of one step each, taken in turn with and without one ahead of the host.

    Before steps that decode alone, and before those in which long prompts take their turns, 16 tokens a step, beside
    the same requests.
    """
    short, chunk, long = [(16, output)] * batch, 16, (512, 2)
    prompts = short + [long] * (output * chunk // long[0])
    loads = {"decode": (short, False), "prompts": (prompts, True)}
    for load, (lengths, with_prompts) in loads.items():
        rows = batch + with_prompts
        measured = replace(recipe, blocks=blocks_of(lengths), max_rows=rows)
        found: dict[bool, list[Any]] = {True: [], False: []}
        for _ in range(repeats):
            for ahead, waits in found.items():
                settings = {"max_num_batched_tokens": batch + chunk} if with_prompts else {}
                spans = spans_of(measured, lengths, async_scheduling=ahead, **settings)
                wait = (spans[1:, 0] - spans[:-1, 1]) * 1e6
                waits.append(wait[(spans[1:, 2] > 0) == with_prompts])
        for ahead, waits in found.items():
            wait = np.concatenate(waits)
            p10, p50, p90 = np.percentile(wait, (10, 50, 90))
            yield {
                "part": "gap", "model": recipe.name, "batch": batch, "before": load, "async_scheduling": ahead,
                "gaps": len(wait), "gap_p10_us": float(p10), "gap_p50_us": float(p50), "gap_p90_us": float(p90),
                "gap_mean_us": float(wait.mean()), "load": os.getloadavg()[0],
            }  # fmt: skip


def spans_of(recipe: Recipe, lengths: list[tuple[int, int]], **settings: Any) -> Any:
    """Of each plan: when the worker came to it and had done with it (s), and the prompt tokens in it; [plans, 3].

    The requests are served once before.
    """
    runners: list[Watched] = []

    def watched(deployment: Any, node: Any, plan: Any) -> Any:
        made = Recipe.of(deployment, plan.limits.max_model_len, plan.kv_blocks, plan.gpus)
        return lambda: runners.append(Watched.start(made, 60.0)) or runners[-1]

    with serving(recipe, watched, stream_interval_s=0.0, **settings) as served:
        served(lengths)
        (runner,) = runners
        with apart(runner):
            runner.spans.clear()
            served(lengths)
        return np.array(runner.spans)


def their_model(machine: Machine, recipe: Recipe) -> Any:
    """The model of transformers, with the numbers of our random one."""
    import transformers

    given = {key: value for key, value in recipe.config.items() if key != "architectures"}
    kind = recipe.config["architectures"][0].removesuffix("ForCausalLM")
    config = getattr(transformers, f"{kind}Config")(**given)
    with torch.device(machine.device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, recipe.dtype))
    held, architecture = model.state_dict(), architecture_of(recipe)
    with torch.no_grad():
        for piece in weights.pieces(architecture):
            held[piece.name].copy_(weights.drawn(piece, architecture, recipe.seed, str(machine.device)))
    return model.eval()


def theirs(machine: Machine, recipe: Recipe, batch: int, prompt: int, output: int) -> Iterator[dict[str, Any]]:
    """transformers with the same weights and prompts of equal length, after ours."""
    try:
        import transformers
    except ModuleNotFoundError:
        print("theirs: transformers is not installed")
        yield {"part": "theirs", "model": recipe.name, "error": "transformers is not installed"}
        return
    shape = {"part": "theirs", "model": recipe.name, "batch": batch, "prompt": prompt, "output": output}
    lengths = [(prompt, output)] * batch
    recipe = replace(recipe, max_rows=batch, blocks=blocks_of(lengths))
    ours = make_runner(recipe)
    seconds = min(bare_loop(ours, recipe, lengths, True)[0] for _ in range(2))
    yield {**shape, "how": "ours, bare loop", "tokens_s": batch * output / seconds}
    del ours
    release()
    model = their_model(machine, recipe)
    ids = torch.randint(model.config.vocab_size, (batch, prompt), device=machine.device)
    settings = {"max_new_tokens": output, "min_new_tokens": output, "do_sample": False, "pad_token_id": 0}
    static = {"attention_mask": torch.ones_like(ids), "cache_implementation": "static"}
    config = transformers.GenerationConfig(max_new_tokens=output, do_sample=False, eos_token_id=-1, pad_token_id=0)
    ways: dict[str, Callable[[], object]] = {
        "generate, static cache": lambda: model.generate(ids, **static, **settings),
        "continuous batching": lambda: model.generate_batch(inputs=ids.tolist(), generation_config=config),
    }
    for how, call in ways.items():
        if how != "continuous batching" or machine.cuda:
            speed = their_speed(machine, call, batch * output)
            paged = "paged|" if how == "continuous batching" else ""
            yield {**shape, "how": how, "attention": f"{paged}{model.config._attn_implementation}", **speed}


def their_speed(machine: Machine, call: Callable[[], object], tokens: int) -> dict[str, Any]:
    """Tokens a second of the second call; the first one compiles."""
    release()
    try:
        seconds = machine.time(call, 1)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {"tokens_s": tokens / seconds}


# --- which cases ------------------------------------------------------------------------------------------------


def recipe_of(model: str, dtype: str, device: str, blocks: int, positions: int, rows: int, threads: int) -> Recipe:
    """A random model."""
    from rakka_sim.config.models import hf_config

    return Recipe(
        model, dict(hf_config(model)[0]), None, positions, blocks, BLOCK, dtype, rows, device=device, threads=threads
    )


Part = Callable[[], Iterator[dict[str, Any]]]


def parts(machine: Machine, arguments: argparse.Namespace) -> Iterator[tuple[str, str, Part]]:
    """All that was asked for, one after the other: part, model, and how it is measured."""
    only, quick, large = arguments.only or PARTS, arguments.quick, machine.cuda
    for model in arguments.model or (["Llama-3.1-8B", "Qwen3-0.6B"] if large else ["Tiny"]):
        rows, positions = (256, 4096) if large else (32, 2048)
        device = "cuda" if large else "cpu"
        recipe = recipe_of(model, arguments.dtype, device, 2048, positions, rows, arguments.threads)
        shapes = [(1, 1024), (64, 1024), (256, 1024)] if large else [(1, 256), (8, 256), (32, 256)]
        batch, output = 64 if large else 8, 64 if quick else 256
        made: dict[str, Part] = {
            "decode": partial(decode, machine, recipe, shapes[:2] if quick else shapes),
            "prefill": partial(prefill, machine, recipe, [2048, 8192] if large else [128, 512]),
            "serve": partial(serve, machine, recipe, 256 if large else 32, 1024 if large else 200),
            "actors": partial(actors, machine, recipe, batch, output, 2 if quick else 5),
            "gap": partial(gaps, recipe, batch, output, 1 if quick else 3),
            "theirs": partial(theirs, machine, recipe, 32 if large else 8, 512 if large else 64, 128 if large else 64),
        }
        yield from ((name, model, part) for name, part in made.items() if name in only or _comes_with(name, only))


def _comes_with(name: str, only: Collection[str]) -> bool:
    return name == "gap" and "actors" in only


def measured(name: str, model: str, part: Part) -> Iterator[dict[str, Any]]:
    """The figures of a part; what goes wrong is one of them."""
    start = time.perf_counter()
    try:
        yield from part()
    except Exception as error:
        traceback.print_exc()
        yield {"part": name, "model": model, "error": f"{type(error).__name__}: {error}"}
    finally:
        release()
        print(f"{name} of {model} took {time.perf_counter() - start:.0f} s", flush=True)


def kept(file: Path | None, done: Collection[tuple[str, str]], device: str) -> list[dict[str, Any]]:
    """What a file holds of other parts, models and devices."""
    if file is None or not file.exists():
        return []
    found: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))["cases"]["found"]
    return [one for one in found if one.get("device") != device or (one["part"], one["model"]) not in done]


def main() -> int:
    """The command line; 1 if a part went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--update", action="store_true", help="keep what that file holds of other parts and models")
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
    release()
    about = machine.about()
    print({key: round(value, 1) if isinstance(value, float) else value for key, value in about.items()}, flush=True)
    found: list[dict[str, Any]] = []
    asked = list(parts(machine, arguments))
    before = kept(arguments.json if arguments.update else None, {part[:2] for part in asked}, about["device"])
    for part in asked:
        for case in measured(*part):
            found.append({**case, "device": about["device"], "dtype": arguments.dtype})
            shown = (f"{key} {f'{it:,.3f}' if isinstance(it, float) else it}" for key, it in case.items())
            print("  ".join(shown), flush=True)
        if arguments.json:
            figures = {"device": about, "dtype": arguments.dtype, "found": before + found}
            write(arguments.json, "live", figures, seed=0)
    return int(any("error" in one for one in found))


if __name__ == "__main__":
    sys.exit(main())
