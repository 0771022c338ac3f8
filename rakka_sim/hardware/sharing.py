"""How flows share links: max-min fair rates, as pure arithmetic; no time, no bytes, no SimPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def max_min_rates(paths: Sequence[Sequence[str]], capacity: Mapping[str, float]) -> list[float]:
    """The rate of each flow over its path of links, in the unit of `capacity`.

    No flow can have more without taking from one that has no more than it. By progressive filling: the link that offers
    its flows least is full at that rate, its flows are settled, and the rest share what remains (Bertsekas and
    Gallager, Data Networks, 6.5.2). A flow's path names each link once.
    """
    rates = [0.0] * len(paths)
    on_link: dict[str, list[int]] = {}
    for flow, path in enumerate(paths):
        for link in path:
            on_link.setdefault(link, []).append(flow)
    left = {link: capacity[link] for link in on_link}
    open_flows = {link: len(flows) for link, flows in on_link.items()}
    settled = [False] * len(paths)
    while open_flows:
        full = min(open_flows, key=lambda link: left[link] / open_flows[link])
        rate = left[full] / open_flows[full]
        for flow in on_link[full]:
            if settled[flow]:
                continue
            rates[flow], settled[flow] = rate, True
            for link in paths[flow]:
                if link == full:
                    continue
                left[link] = max(0.0, left[link] - rate)
                open_flows[link] -= 1
                if not open_flows[link]:
                    del open_flows[link]
        del open_flows[full]
    return rates
