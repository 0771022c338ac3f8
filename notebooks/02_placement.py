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
# # Placement: which GPUs a replica gets, and what that costs
#
# A replica with tensor parallelism all-reduces twice per layer, so how its GPUs are joined is part of every step. This
# notebook draws machines, places deployments on them under several policies, and reads the difference off the step
# times. It needs no GPU: what is placed is real, what a step takes is modelled.

# %%
import rakka_sim
from rakka_sim.core.placing import Demand, Ledger, NodeFacts, place_all
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.shape import MachineShape
from rakka_sim.report.cluster_plot import draw, side_by_side

# %% [markdown]
# ## A machine
#
# Any machine of `rakka-sim topology list`, any NCCL topology file, and a saved `nvidia-smi topo -m` can be drawn. Here
# is the cube mesh of a DGX-1 with V100: NVLinks join some pairs twice, some once, and some not at all.

# %%
draw(preset("dgx1-v100"))

# %% [markdown]
# Which five of its GPUs would you take? Five have no ring of double links, and not every five have a ring of NVLinks at
# all. A node's **quote** is the set on which the deployment's own collective is cheapest; among equals, the one that
# leaves most sets of the usual sizes at full speed (its *flexibility*).

# %%
dgx1 = NodeFacts("dgx1", MachineShape(preset("dgx1-v100")), gpu_model="V100")
ledger = Ledger([dgx1])
five = ledger.place(Demand("five", replicas=1, gpus=5)).assignments[0].gpus
by_pairs = (0, 1, 2, 3, 4)  # what adding up the links of all pairs prefers: GPU 4 hangs from GPU 0 alone
for name, gpus in (("the quote", five), ("the sum over pairs", by_pairs)):
    print(f"{name:20} {gpus}  all-reduce of 256 KiB: {preset('dgx1-v100').all_reduce_s(gpus, 256 << 10) * 1e6:.1f} us")

# %%
draw(preset("dgx1-v100"), dict.fromkeys(five, "five"), title="five GPUs that have a ring")

# %% [markdown]
# ## A cluster
#
# `scenarios/mixed_cluster.toml` has a 70B model on four GPUs a replica, small models beside it, and two remote
# providers. `rakka_sim.place` lets the placement actors place its deployments and runs nothing else. Serving the
# remote ones is not built; they have their places all the same.

# %%
mixed = "../scenarios/mixed_cluster.toml"
placed = rakka_sim.place(mixed)
placed

# %%
placed.draw()

# %% [markdown]
# ## Two policies side by side
#
# `naive` is what the system that this one is modelled on does: always the first GPUs, whoever has them. A GPU with two
# colours is booked twice.

# %%
naive = rakka_sim.place(mixed, {"placement.policy": "naive"})
side_by_side(placed.topology, {"topology": placed.marks, "naive": naive.marks})

# %% [markdown]
# ## It shows in the step times
#
# One box with eight GPUs on PCIe, four to a socket. Two small replicas come first, then one that wants four GPUs.
# `pack` takes the next four in order, across the sockets; `topology` takes the four of the other socket.

# %%
box = {
    "name": "box",
    "cluster": {"nodes": [{"name": "box", "gpu": "L40S", "gpus": 8, "topology": "pcie"}]},
    "deployment": [
        {"name": "small", "model": "Qwen/Qwen3-0.6B", "replicas": 2},
        {"name": "large", "model": "meta-llama/Llama-3.1-8B", "gpus": 4},
    ],
    "workload": {
        "deployment": "large",
        "requests": 200,
        "arrivals": {"kind": "poisson", "rate": 10.0},
        "lengths": {"kind": "fixed", "prompt": 200, "output": 100},
    },
}
policies = ("topology", "pack")
places = {policy: rakka_sim.place(box, {"placement.policy": policy}) for policy in policies}
side_by_side(places["topology"].topology, {policy: each.marks for policy, each in places.items()})

# %%
reports = {policy: rakka_sim.run(box, overrides={"placement.policy": policy}) for policy in policies}
rakka_sim.compare(reports)

# %% [markdown]
# ## A policy of your own
#
# A function of the nodes' offers is a policy. Each offer is a node's best place for the next replica: `gpus`,
# `cost_s`, `loss` (of flexibility), `free`, `here` (replicas of this deployment on the node). What may not be, a GPU
# twice or a node of the wrong kind, is never offered; and a policy that makes something up is told so. The same
# function places in a simulation and on real devices.


# %%
def cheapest_node_last(offers, demand):
    """Keep the fast nodes for those who come later."""
    return max(offers, key=lambda offer: offer.cost_s)


rakka_sim.place(box, {"placement.policy": cheapest_node_last})

# %% [markdown]
# ## Many at once
#
# Placed one after another, deployments can block each other. `place_all` takes the largest first and, where that does
# not place all of them, lets an integer programme over *patterns* (what one node can hold together) decide: here best
# fit alone would refuse one of five.

# %%
nodes = [NodeFacts(name, MachineShape(preset("hgx-h100", count=gpus))) for name, gpus in (("a", 6), ("b", 8), ("c", 7))]
demands = [Demand(f"takes-{gpus}", 1, gpus) for gpus in (4, 2, 8, 5, 2)]
demands = [Demand(f"{demand.deployment}-{number}", 1, demand.gpus) for number, demand in enumerate(demands)]
batch = place_all(Ledger(nodes), demands)
print(f"{len(batch.placed)} placed, {len(batch.refused)} refused, {batch.gpus} of 21 GPUs in use, by {batch.solver}")
for name, result in batch.placed.items():
    print(f"  {name:12} {result.assignments[0].node}  {result.assignments[0].gpus}")
