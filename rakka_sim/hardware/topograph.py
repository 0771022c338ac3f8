"""A cluster from a topograph model: a tree of network switches, nodes below its leaves, NVLink domains.

The format is that of `tests/models/*.yaml` of NVIDIA/topograph: `switches` (name -> labels, switches) and `blocks`
(switch, nodes as names or ranges like ``node[1101-1118]``, annotations). No hardware is in it: give a machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rakka_sim.errors import InputError
from rakka_sim.hardware.files import read_text
from rakka_sim.hardware.topology import NO_MACHINE, ClusterTopology, Machine, Node, Switch

MOST_NODES = 100_000
REGION, ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
# An accelerator domain is an annotation whose key ends like this, whoever's prefix it has.
DOMAIN = re.compile(r"(?:^|[./])(?:accelerator|clique|gpu\.clique)\b.*$")
_RANGE = re.compile(r"(.*)\[([\d,\s-]+)\](.*)")


def load_topograph(path: str | Path, machine: Machine = NO_MACHINE) -> ClusterTopology:
    """The cluster of a YAML file; needs PyYAML (the `topology` extra). Raises InputError."""
    try:
        import yaml
    except ImportError:
        raise InputError(str(path), "a YAML file", "YAML needs PyYAML: pip install 'rakka_sim[topology]'") from None
    try:
        data = yaml.safe_load(read_text(Path(path)))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(str(path), str(error)[:200], "a YAML document") from None
    return read_topograph(data, machine, str(path), Path(path).stem)


def read_topograph(
    data: Any, machine: Machine = NO_MACHINE, where: str = "topograph", name: str = ""
) -> ClusterTopology:
    """The same from plain data; raises InputError."""
    top = _table(data, where)
    tables, notes = _table(top.get("switches") or {}, f"{where}: switches"), list[str]()
    above: dict[str, str] = {}
    labels: dict[str, Mapping[Any, Any]] = {}
    for switch, table in tables.items():
        place = f"{where}: switches.{_short(switch)}"
        own = _table(table or {}, place)
        labels[str(switch)] = _table(own.get("labels") or {}, f"{place}.labels")
        for below in _list(own.get("switches") or [], f"{place}.switches"):
            if above.setdefault(str(below), str(switch)) != str(switch):
                notes.append(f"switch {below} is below {above[str(below)]} and {switch}: the first is taken")
    nodes: list[Node] = []
    for number, block in enumerate(_list(top.get("blocks") or [], f"{where}: blocks")):
        place = f"{where}: blocks.{number}"
        nodes.extend(_block(_table(block, place), place, machine, above, labels))
        if len(nodes) > MOST_NODES:
            raise InputError(place, f"more than {MOST_NODES} nodes", f"at most {MOST_NODES}")
    known = dict.fromkeys([*map(str, tables), *above, *(node.switch for node in nodes if node.switch)])
    made = (Switch(switch, above.get(switch, ""), _pairs(labels.get(switch, {}))) for switch in known)
    return ClusterTopology(tuple(nodes), tuple(made), name, tuple(notes))


def _block(
    block: Mapping[Any, Any],
    place: str,
    machine: Machine,
    above: Mapping[str, str],
    labels: Mapping[str, Mapping[Any, Any]],
) -> Iterable[Node]:
    switch = str(block.get("switch") or "")
    annotations = _table(block.get("annotations") or {}, f"{place}.annotations")
    domain = next((str(value) for key, value in annotations.items() if DOMAIN.search(str(key))), "")
    seen: list[str] = []
    at = switch
    while at and at not in seen:
        seen.append(at)
        at = above.get(at, "")
    region = next((str(labels[up][REGION]) for up in seen if REGION in labels.get(up, {})), "")
    for text in _list(block.get("nodes") or [], f"{place}.nodes"):
        for name in expand(str(text) if isinstance(text, str | int) else _refuse(text, f"{place}.nodes"), place):
            # What hangs from one leaf switch fails with it.
            yield Node(name, machine, switch, switch, region, nvlink_domain=domain, switch=switch)


def expand(text: str, where: str = "nodes") -> list[str]:
    """``I[21-22,25]`` as I21, I22, I25; a name without brackets as it is. Zeros in front are kept."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return [text]
    before, spans, after = match.groups()
    names: list[str] = []
    for span in spans.split(","):
        first, dash, last = (part.strip() for part in span.partition("-"))
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal() or not 0 <= int(last) - int(first) <= MOST_NODES:
            raise InputError(where, text[:80], f"a range like node[1-18], of at most {MOST_NODES} nodes")
        names += [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
    return names


def _pairs(labels: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(key), str(value)) for key, value in labels.items() if not isinstance(value, list | dict)))


def _table(data: Any, where: str) -> Mapping[Any, Any]:
    return data if isinstance(data, Mapping) else _refuse(data, where, "a table")


def _list(data: Any, where: str) -> list[Any]:
    return data if isinstance(data, list) else _refuse(data, where, "a list")


def _refuse(data: Any, where: str, allowed: str = "a name") -> Any:
    # Never the value itself: YAML can make a small file into one that takes for ever to print.
    raise InputError(where, type(data).__name__, allowed)


def _short(name: Any) -> str:
    return str(name)[:80]
