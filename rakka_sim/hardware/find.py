"""A topology by whatever names it: a machine of the catalogue, a file, a scenario, "live"; no format is known here."""

from __future__ import annotations

from pathlib import Path

from rakka_sim.config.loading import load_scenario
from rakka_sim.config.machines import machine_spec
from rakka_sim.errors import InputError, UnknownName
from rakka_sim.hardware.clusters import cluster_topology
from rakka_sim.hardware.files import CLUSTER_ENDINGS, load_machine
from rakka_sim.hardware.live import live_machine
from rakka_sim.hardware.models import known_model
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.racks import nvl72_rack
from rakka_sim.hardware.topograph import load_topograph
from rakka_sim.hardware.topology import NO_MACHINE, ClusterTopology, Machine

LIVE, RACK = "live", "nvl72"


def find_topology(what: str, model: str = "") -> Machine | ClusterTopology:
    """The topology that `what` names; `model` is what its GPUs are where that is open.

    For a cluster tree, which holds no machines, `model` may be the name of a machine: that of each node. Raises
    UnknownName, InputError, or NoDevice for "live" without a GPU.
    """
    path = Path(what)
    if what == LIVE:
        return live_machine()
    if what.lower() == RACK:
        return nvl72_rack()
    if path.suffix.lower() in CLUSTER_ENDINGS:
        return load_topograph(path, preset(model) if model else NO_MACHINE)
    if path.suffix.lower() == ".toml":
        scenario, base = load_scenario(path)
        return cluster_topology(scenario.cluster, base)
    model = known_model(model) if model else ""
    if path.is_file():
        return load_machine(path, model)
    try:
        return preset(machine_spec(what).name, model or None)
    except UnknownName as error:
        if path.suffix or len(path.parts) > 1:
            raise InputError("topology", what, "an existing file") from None
        raise UnknownName("topology", what, f"{LIVE}, {RACK}, an existing file, {error.allowed}") from None
