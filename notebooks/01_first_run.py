# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first run
#
# This notebook simulates three replicas of Llama-3.1-8B under a chat load, reads the result, and then asks which way of
# routing requests to replicas is best for a load that shares prompts. It needs no GPU and downloads nothing.
#
# The actors (gateway, coordinator, engines with continuous batching and a paged KV cache) really run, on a virtual
# clock. What is modelled is how long a step takes on the GPU: here by a roofline of the H200. So trust the comparisons
# more than the milliseconds, and calibrate before you buy hardware.

# %%
import rakka_sim

# %% [markdown]
# ## Run
#
# A scenario is a TOML file: machines, deployments, a workload. The bar counts requests that have ended.

# %%
quickstart = "../scenarios/quickstart.toml"
report = rakka_sim.run(quickstart)

# %% [markdown]
# **To stop a run**, interrupt the kernel (the square button, or `I` twice). The run ends with `KeyboardInterrupt` and
# leaves nothing behind, not even half a report. Run the cell again and it starts afresh: the scenario's seed decides
# every draw, so the same cell gives the same result, down to the digest.
#
# ## Read the summary

# %%
report

# %% [markdown]
# The first line says how the run was made: mode, seed, seconds simulated, and how long you waited for them.
#
# Latencies are of completed requests, in milliseconds:
#
# * **TTFT**, time to first token: from arrival to the first token. Waiting in queues counts.
# * **TPOT**, time per output token: (last token - first token) / (tokens - 1), one value per request.
# * **ITL**, inter-token latency: every single gap between two tokens, all requests pooled. A step that also computes
#   somebody's prompt takes longer, so its tail is far from its median; TPOT averages that away.
# * **E2E**, end to end: from arrival to the last token.
#
# Below them:
#
# * **goodput**: requests per second that kept *every* limit of the named objective, and their share of all requests.
# * **throughput**: what was completed, good or not, over the simulated time. That time includes the beginning, when
#   the replicas fill up, and the end, when they run empty, so it is less than they can sustain.
# * **preemptions**: how often an engine ran out of KV blocks and had to compute a request again.
# * **KV use**: share of the KV blocks held by requests; the mean is over time and replicas.
# * **prefix hits**: share of the prompt tokens found in the KV cache instead of computed. Here no two prompts have
#   anything in common, so there are none.
# * **cost**: every GPU that has a replica on it, for the whole run, at the scenario's price, which is an assumption.
# * **KV blocks**: how many an engine got and where that number comes from; one of the first things to check against
#   the log of a real engine.
# * **digest**: a SHA-256 of the event log. The same scenario and seed give the same one.
#
# ## Look at it
#
# The figure of the summary once more, in its full size. Each curve says which share of requests (for ITL: of gaps) took
# at most so long; dashed lines are the objective.

# %%
report.plot.latency()

# %%
report.plot.timeline()

# %% [markdown]
# The replicas fill up for some ten seconds. When all of their `max_num_seqs` places are taken, requests wait: those
# are the ones beyond the dashed TTFT line above. The KV cache is never near full, so memory is not what limits this
# deployment. The last peak of output is no new load: nobody arrives any more, so no step has prompts to compute.
#
# ## Requests and steps
#
# Everything above is derived from two tables: one row per request, and one per step of an engine.

# %%
report.requests.head()

# %%
report.steps.head()

# %% [markdown]
# Where does the time to the first token go? `queue_ms` is the part before the engine first schedules the request; the
# rest is spent computing its prompt, a share of every step at a time.

# %%
import pandas as pd

requests = report.requests.assign(prefill_ms=lambda table: table["ttft_ms"] - table["queue_ms"])
by_size = requests.groupby(pd.cut(requests["prompt_tokens"], [0, 256, 1024, 2048, 4142]), observed=True)
by_size[["queue_ms", "prefill_ms", "ttft_ms"]].median().round(1).assign(requests=by_size.size())

# %% [markdown]
# Long prompts take longer to compute, as they must. They do not wait longer to begin: the queue is served in order of
# arrival, whatever the length. These are medians, and medians of parts do not add up to the median of their sum. For
# the tails of such groups a run of this length has too few requests.
#
# ## Change something
#
# `overrides` change single keys of a scenario, by dotted path. What would a fourth replica bring?

# %%
four = rakka_sim.run(quickstart, overrides={"deployment.llama-8b.replicas": 4})
rows = ["TTFT_ms p50", "TTFT_ms p99", "TPOT_ms p50", "TPOT_ms p99", "slo_attainment"]
rakka_sim.compare({"3 replicas": report, "4 replicas": four}).loc[[*rows, "usd_per_million_output_tokens"]].round(3)

# %% [markdown]
# Everything gets much faster: three replicas were close to their limit. And a token gets dearer, because the users do
# not send more for it. (`compare` has more rows than are picked here.)
#
# A key that does not exist, or a value that cannot be, is an error which names both and says what is allowed:

# %%
from rakka_sim.errors import ScenarioError

try:
    rakka_sim.run(quickstart, overrides={"deployment.llama-8b.replicas": "many"})
except ScenarioError as error:
    print(error)

# %% [markdown]
# ## Which routing policy?
#
# In the quickstart every prompt is new, so all that a router can do is to spread the load. Conversations are different:
# each turn's prompt repeats what was said so far, and all begin with one of a few system prompts. A replica that still
# has those tokens in its KV cache need not compute them.
#
# A scenario may be a dict as well. Conversations begin at random, 17 per second, each with one of 20 system prompts of
# 1,500 tokens; a turn brings 1,000 new tokens on average, and the user thinks for 4 s before the next one.

# %%
chat = {
    "name": "chat",
    "slo": "mlperf-llama3.1-8b-interactive",
    "cluster": {"nodes": [{"name": "h200-a", "gpu": "H200", "gpus": 3}]},
    "deployment": [
        {
            "name": "llama-8b",
            "model": "meta-llama/Llama-3.1-8B",
            "replicas": 3,
            "serving": {"max_concurrent": 256},
            "runtime_config": {"max_num_seqs": 128, "max_num_batched_tokens": 2048},
        }
    ],
    "workload": {
        "requests": 800,
        "arrivals": {"kind": "poisson", "rate": 17},
        "lengths": {
            "kind": "lognormal",
            "prompt": {"mean": 1000, "cv": 1.0, "min": 4, "max": 4000},
            "output": {"mean": 100, "cv": 0.8, "min": 4, "max": 600},
        },
        "prefix": {"groups": 20, "tokens": 1500},
        "sessions": {"turns": {"kind": "geometric", "mean": 5, "max": 20}, "think_time_s": 4, "think_cv": 1.0},
    },
}
policies = ["round_robin", "least_load", "power_of_two", "prefix_affinity"]
routed = {policy: rakka_sim.run(chat, overrides={"routing.policy": policy}) for policy in policies}
rakka_sim.compare(routed).loc[[*rows, "prefix_hit_rate", "kv_usage max"]].round(3)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for policy, result in routed.items():
    axes.ecdf(result.requests["ttft_ms"], label=policy)
axes.set(xscale="log", xlabel="time to first token (ms)", ylabel="share of requests")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# What one sees:
#
# * `prefix_affinity` finds about seven in ten prompt tokens in the cache, the others about five. Those five are no
#   accident: the system prompts are soon on every replica, and one turn in three comes to the right one by luck.
# * Fewer tokens to compute means shorter steps for everybody on the replica. So TPOT falls as well, though a prefix hit
#   saves nothing in decoding itself.
# * The other three differ little. `round_robin` has the worst tail of TPOT: it goes on sending to a replica that has
#   become crowded (`kv_usage max` shows one), and whoever sits there gets slow tokens. The two that look at the load
#   even that out somewhat.
#
# What one may not conclude is that affinity always wins. It pays with balance. With one system prompt for everybody, or
# with prompts that share nothing, there is little to win; and where too many follow one prefix, a replica would be
# overloaded, so this policy sends them to the least loaded one instead, and their hits are lost.
#
# And a difference between two runs may be luck. Another seed draws other conversations:

# %%
pair = ["least_load", "prefix_affinity"]
again = {policy: rakka_sim.run(chat, seed=1, overrides={"routing.policy": policy}) for policy in pair}
rakka_sim.compare(again).loc[[*rows, "prefix_hit_rate"]].round(3)

# %% [markdown]
# The same picture. The medians and the hit rates hardly move with the seed, the p99s do: do not rank policies that are
# as close as the first three by one run each.
#
# ## Keep it
#
# `save` writes the tables, `summary.json`, the scenario and the plots; `export` writes the run as another tool's file.

# %%
folder = report.save("../out/first_run")
report.export("vllm", folder / "vllm_bench.json")  # what `vllm bench serve --save-result` writes
report.export("perfetto", folder / "trace.json")  # open it at https://ui.perfetto.dev
sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

# %% [markdown]
# Next: `scenarios/azure_conv.toml` replays an hour of real traffic, once `rakka-sim fetch azure-2023-conv` has brought
# the trace; `rakka-sim schema` prints every key that a scenario may have.
