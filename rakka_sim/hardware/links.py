"""Transfers on SimPy's clock: events that happen when the bytes have arrived; what they share is in `transfers`.

Works in any `simpy.Environment`, a `SimRuntime`'s included:

    network = Network(system.env, [Link("nvme", 7e9), Link("pcie0", 55e9), Link("pcie1", 55e9)])
    yield network.transfer(("nvme", "pcie0"), 16e9)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import simpy

from rakka_sim.hardware.transfers import Link, Moving, Transfers, seconds_together

__all__ = ["Link", "Network", "Transfer", "seconds_together"]


class Transfer(simpy.Event):
    """`size` bytes on their way over `path`; an event that happens when they have arrived, its value the transfer.

    It happens too when it is cancelled, so that nobody waits for ever: `cancelled` tells. `left`: bytes not yet moved,
    `rate`: bytes/s, both as of the last change of its rate. `ended` in s of the environment's clock, None before.
    """

    def __init__(self, network: Network, moving: Moving) -> None:
        super().__init__(network.env)
        self._network, self._moving = network, moving
        self.path, self.size, self.started = moving.path, moving.size, moving.started

    @property
    def left(self) -> float:
        return self._moving.left

    @property
    def rate(self) -> float:
        return self._moving.rate

    @property
    def ended(self) -> float | None:
        return self._moving.ended

    @property
    def cancelled(self) -> bool:
        return self._moving.cancelled

    @property
    def moved(self) -> float:
        """Bytes that have arrived by now."""
        return self.size - self._moving.left_at(self.env.now)

    def cancel(self) -> None:
        """Stop here; what has arrived stays. Nothing happens to a transfer that has ended."""
        self._network.cancel(self)


class Network:
    """Links, and the transfers that share them: `transfers.Transfers`, told the time by SimPy."""

    def __init__(self, env: simpy.Environment, links: Iterable[Link]) -> None:
        self.env = env
        self._transfers = Transfers(links, env.now)
        self._events: dict[Moving, Transfer] = {}
        self._timer: simpy.Event | None = None

    @property
    def active(self) -> tuple[Transfer, ...]:
        """The transfers under way, oldest first."""
        return tuple(self._events[moving] for moving in self._transfers.active)

    def transfer(self, path: Sequence[str], size: float) -> Transfer:
        """Start moving `size` bytes over the links of `path`; raises as `Transfers.start` does."""
        moving = self._transfers.start(self.env.now, path, size)
        event = self._events[moving] = Transfer(self, moving)
        self._settle()
        return event

    def cancel(self, transfer: Transfer) -> None:
        """End a transfer now (`Transfer.cancel` is what users call)."""
        self._transfers.cancel(self.env.now, transfer._moving)
        self._settle()
        if transfer.cancelled and not transfer.triggered:
            self._happen(transfer._moving)

    def carried(self, link: str) -> float:
        """Bytes that have gone over a link by now."""
        return self._transfers.carried(link, self.env.now)

    def check(self) -> None:
        """Raise InvariantBroken if a link carries more than it can or a transfer stands still."""
        self._transfers.check()

    def _settle(self) -> None:
        """Tell of what has arrived, and set a timer for what ends next."""
        for moving in self._transfers.advance(self.env.now):
            self._happen(moving)
        self._timer, end = None, self._transfers.next_end()
        if end is not None:
            # SimPy adds it to the present time. Where rounding makes that come too early, it is set again.
            self._timer = self.env.timeout(max(0.0, end - self.env.now))
            self._timer.callbacks.append(self._due)

    def _due(self, timer: simpy.Event) -> None:
        if timer is self._timer:  # else the rates have changed since it was set
            self._settle()

    def _happen(self, moving: Moving) -> None:
        event = self._events.pop(moving)
        event.succeed(event)
