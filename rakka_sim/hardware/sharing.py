"""How flows share links: max-min fair rates, as pure arithmetic; no time, no bytes, no SimPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush


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
    number = {link: place for place, link in enumerate(on_link)}
    left = {link: capacity[link] for link in on_link}
    open_flows = {link: len(flows) for link, flows in on_link.items()}
    settled = [False] * len(paths)
    offers = [(left[link] / open_flows[link], number[link], link) for link in on_link]  # a heap with void entries
    heapify(offers)
    while open_flows:
        rate, _, full = heappop(offers)
        if full not in open_flows or rate != left[full] / open_flows[full]:
            continue
        touched: dict[str, None] = {}
        for flow in on_link[full]:
            if settled[flow]:
                continue
            rates[flow], settled[flow] = rate, True
            for link in paths[flow]:
                if link == full:
                    continue
                left[link] = max(0.0, left[link] - rate)
                open_flows[link] -= 1
                touched[link] = None
        del open_flows[full]
        for link in touched:
            if open_flows[link]:
                heappush(offers, (left[link] / open_flows[link], number[link], link))
            else:
                del open_flows[link]
    return rates
