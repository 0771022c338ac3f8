"""A placement as one reads it: a table, marks for the drawings, plain data. Nothing is placed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rakka_sim.hardware.topology import ClusterTopology, Place
from rakka_sim.values import NodeAssignment, PlacementResult

if TYPE_CHECKING:
    from rakka_sim.report.figures import Figure

MESSAGE_BYTES = 256 << 10  # of the all-reduce whose time is shown


@dataclass(frozen=True)
class Placed:
    """Where the deployments of a scenario went, under a policy; `refused` says why some went nowhere.

    In a notebook it is its table; `draw` shows it on the cluster.
    """

    scenario: str
    policy: str
    topology: ClusterTopology
    results: tuple[PlacementResult, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def marks(self) -> dict[Place, tuple[str, ...]]:
        """What is on each GPU; index -1 is a node's way out, for remote replicas."""
        found: dict[Place, list[str]] = {}
        for result in self.results:
            for each in result.assignments:
                for gpu in each.gpus or (-1,):
                    found.setdefault((each.node, gpu), []).append(result.deployment)
        return {place: tuple(names) for place, names in found.items()}

    @property
    def double_booked(self) -> dict[Place, tuple[str, ...]]:
        """Whole GPUs that more than one replica has."""
        sliced = {
            (each.node, gpu)
            for result in self.results
            for each in result.assignments
            if each.slice is not None
            for gpu in each.gpus
        }
        return {
            place: names
            for place, names in self.marks.items()
            if place[1] >= 0 and len(names) > 1 and place not in sliced
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per replica; `all_reduce_us` is of 256 KiB among its GPUs, None where that says nothing."""
        return [self._row(result.deployment, each) for result in self.results for each in result.assignments]

    def _row(self, deployment: str, each: NodeAssignment) -> dict[str, Any]:
        machine = self.topology.node(each.node).machine
        real = bool(each.gpus) and max(each.gpus) < machine.count
        several = real and len(each.gpus) > 1
        return {
            "deployment": deployment,
            "replica": each.replica_index,
            "node": each.node,
            "gpus": list(each.gpus),
            "slice": None if each.slice is None else f"{each.slice.profile}@{each.slice.start}",
            "fabric": str(machine.group(each.gpus).fabric.value) if several else None,
            "all_reduce_us": round(machine.all_reduce_s(each.gpus, MESSAGE_BYTES) * 1e6, 2) if several else None,
        }

    @property
    def data(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "scenario": self.scenario,
            "policy": self.policy,
            "replicas": self.rows(),
            "degraded": {r.deployment: list(r.degraded) for r in self.results if r.degraded},
            "refused": dict(self.refused),
            "double_booked": [[node, gpu, list(names)] for (node, gpu), names in self.double_booked.items()],
        }

    def draw(self, title: str = "") -> Figure:
        """The cluster, each GPU in the colour of what is on it."""
        from rakka_sim.report.cluster_plot import draw

        return draw(self.topology, self.marks, title=title or f"{self.scenario}: {self.policy}")

    def save(self, out: str | Path) -> Path:
        """Write it: a name in .json gets the data, that of a picture the drawing, any other is a folder for both."""
        from rakka_sim.report.files import save_figure, write_json

        out = Path(out)
        if out.suffix == ".json" and not out.is_dir():
            return write_json(out, self.data, indent=2)
        if out.suffix and not out.is_dir():
            return save_figure(self.draw(), out)
        write_json(out / "placement.json", self.data, indent=2)
        save_figure(self.draw(), out / "placement.png")
        return out

    def __str__(self) -> str:
        lines = [f"{self.scenario}, policy {self.policy}"]
        for row in self.rows():
            where = f"slice {row['slice']} of GPU {row['gpus'][0]}" if row["slice"] else _numbers(row["gpus"])
            reach = f"{row['fabric']}, all-reduce of 256 KiB {row['all_reduce_us']:.1f} us" if row["fabric"] else ""
            lines.append(
                f"  {row['deployment']:<20} {row['replica']:>3}  {row['node']:<16} {where:<24} {reach}".rstrip()
            )
        lines += [f"  {name}: {', '.join(result)}" for name, result in self.data["degraded"].items()]
        lines += [f"  refused: {why}" for why in self.refused.values()]
        booked = [f"GPU {gpu} of {node} ({', '.join(names)})" for (node, gpu), names in self.double_booked.items()]
        lines += [f"  booked twice: {', '.join(booked)}"] if booked else []
        return "\n".join(lines)

    __repr__ = __str__


def _numbers(gpus: list[int]) -> str:
    return f"GPUs {', '.join(map(str, gpus))}" if gpus else "egress"
