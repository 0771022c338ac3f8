"""Transfers that share links, on SimPy's clock: when each ends, given what else moves; who sends what is not here.

A link is a direction: what goes the other way is another link. A transfer has no latency of its own; one who wants it
waits before. Works in any `simpy.Environment`, a `SimRuntime`'s included:

    network = Network(system.env, [Link("nvme", 7e9), Link("pcie0", 55e9), Link("pcie1", 55e9)])
    yield network.transfer(("nvme", "pcie0"), 16e9)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import simpy

from rakka_sim.errors import InputError, InvariantBroken, UnknownName
from rakka_sim.hardware.sharing import max_min_rates


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a wire, a bus or a disk: its name and bytes/s."""

    name: str
    bytes_s: float

    def __post_init__(self) -> None:
        if not 0 < self.bytes_s < math.inf:
            raise InputError(f"bytes/s of link {self.name}", self.bytes_s, "a rate above 0")


class Transfer(simpy.Event):
    """`size` bytes on their way over `path`; an event that happens when they have arrived, its value the transfer.

    It happens too when it is cancelled, so that nobody waits for ever: `cancelled` tells. `left`: bytes not yet moved,
    `rate`: bytes/s, both as of the last change in the network. `ended` in s of the environment's clock, None before.
    """

    def __init__(self, network: Network, path: tuple[str, ...], size: float) -> None:
        super().__init__(network.env)
        self.network, self.path, self.size = network, path, size
        self.left, self.rate = size, 0.0
        self.started = network.env.now
        self.ended: float | None = None
        self.cancelled = False

    @property
    def moved(self) -> float:
        """Bytes that have arrived by now."""
        return self.size - self.network.left_of(self)

    def cancel(self) -> None:
        """Stop here; what has arrived stays. Nothing happens to a transfer that has ended."""
        if self.ended is None:
            self.cancelled = True
            self.network.end(self)


class Network:
    """Links, and the transfers that share them max-min fairly at every moment (processor sharing on a single link)."""

    def __init__(self, env: simpy.Environment, links: Iterable[Link]) -> None:
        self.env = env
        self._capacity: dict[str, float] = {}
        for link in links:
            if link.name in self._capacity:
                raise InputError("links", link.name, "a name of its own for each")
            self._capacity[link.name] = link.bytes_s
        self._carried = dict.fromkeys(self._capacity, 0.0)
        self._active: list[Transfer] = []
        self._since = env.now
        self._timer: simpy.Event | None = None
        self._first: list[Transfer] = []  # what ends when the timer goes off

    @property
    def active(self) -> tuple[Transfer, ...]:
        """The transfers under way, oldest first."""
        return tuple(self._active)

    def transfer(self, path: Sequence[str], size: float) -> Transfer:
        """Start moving `size` bytes over the links of `path`, all of them at once, as a pipeline does.

        Raises UnknownName for a link that is not here, InputError for no size and for no path, or one that names a link
        twice.
        """
        if not 0 <= size < math.inf:
            raise InputError("bytes of a transfer", size, "0 or more")
        if not path or len(set(path)) < len(path):
            raise InputError("path of a transfer", tuple(path), "at least one link, each once")
        for name in path:
            if name not in self._capacity:
                raise UnknownName("link", name, ", ".join(self._capacity))
        moving = Transfer(self, tuple(path), float(size))
        if size > 0:
            self._advance()
            self._active.append(moving)
            self._share()
        else:
            self._close(moving)
        return moving

    def carried(self, link: str) -> float:
        """Bytes that have gone over a link by now."""
        under_way = sum(moving.rate for moving in self._active if link in moving.path)
        return self._carried[link] + under_way * (self.env.now - self._since)

    def left_of(self, moving: Transfer) -> float:
        """Bytes of a transfer that have not arrived by now."""
        if moving.ended is not None:
            return moving.left
        return max(0.0, moving.left - moving.rate * (self.env.now - self._since))

    def end(self, moving: Transfer) -> None:
        """End a transfer now, arrived or not (`Transfer.cancel` is what users call)."""
        self._advance()
        self._active.remove(moving)
        self._close(moving)
        self._share()

    def check(self) -> None:
        """Raise InvariantBroken if a link carries more than it can or a transfer stands still."""
        for link, most in self._capacity.items():
            rate = sum(moving.rate for moving in self._active if link in moving.path)
            if rate > most * (1 + 1e-9):
                raise InvariantBroken("Network", f"{link} carries {rate} of {most} bytes/s")
        if any(moving.rate <= 0 for moving in self._active):
            raise InvariantBroken("Network", "a transfer stands still")

    def _advance(self) -> None:
        """Bring what is left of each transfer up to now; rates have not changed since `_since`."""
        elapsed, self._since = self.env.now - self._since, self.env.now
        if elapsed > 0:
            for moving in self._active:
                self._move(moving, min(moving.left, moving.rate * elapsed))

    def _move(self, moving: Transfer, size: float) -> None:
        moving.left -= size
        for link in moving.path:
            self._carried[link] += size

    def _share(self) -> None:
        """New rates, and a new timer for whatever ends next."""
        self._timer = None
        if not self._active:
            return
        rates = max_min_rates([moving.path for moving in self._active], self._capacity)
        for moving, rate in zip(self._active, rates, strict=True):
            moving.rate = rate
        soonest = min(moving.left / moving.rate for moving in self._active)
        self._first = [moving for moving in self._active if moving.left / moving.rate <= soonest]
        self._timer = self.env.timeout(soonest)
        self._timer.callbacks.append(self._due)

    def _due(self, timer: simpy.Event) -> None:
        if timer is not self._timer:
            return  # the rates have changed since it was set
        self._advance()
        for moving in self._first:
            # What rounding has left of them: they are done, whatever the last digit says.
            self._move(moving, moving.left)
            self._active.remove(moving)
            self._close(moving)
        self._share()

    def _close(self, moving: Transfer) -> None:
        moving.ended, moving.rate = self.env.now, 0.0
        moving.succeed(moving)


def seconds_together(links: Iterable[Link], loads: Sequence[tuple[Sequence[str], float]]) -> list[float]:
    """Seconds that each of these transfers, (path, bytes), takes when all start at once and nothing else moves.

    What replicas of one node wait for their weights when they start together: a disk or a NIC that they share, a PCIe
    link of each GPU's own.
    """
    env = simpy.Environment()
    network = Network(env, links)
    started = [network.transfer(path, size) for path, size in loads]
    env.run()
    return [moving.ended or 0.0 for moving in started]
