"""The whole topology under whatever Hypothesis thinks of: arrivals, cancels, faults, resizes, lost nodes, in any order.

At any moment the limits hold. When the faults stop, everything has ended exactly once, and nothing is held any more.
"""

from __future__ import annotations

from typing import Any

from actors.serving import STEP_S, Serving
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.errors import ContextPoisoned, Internal, OutOfMemory, Unrecoverable
from rakka_sim.messages import Apply, Remove
from rakka_sim.values import Sampling

FAULTS = (ContextPoisoned("sticky"), OutOfMemory("no room"), Internal("the process died"), Unrecoverable("no device"))
OUTCOMES = {
    "stop",
    "length",
    "cancelled",
    "timeout",
    "backpressure",
    "server_error",
    "out_of_memory",
    "context_length_exceeded",
    "bad_request",
    "not_found",
}
NODES = ("n0", "n1", "n2", "n3")
TIMES = st.sampled_from([0.0, 0.4 * STEP_S, STEP_S, 2.5 * STEP_S, 7 * STEP_S])


class ServingMachine(RuleBasedStateMachine):
    """Two deployments on four nodes; "m" may fall back to "spare"."""

    @initialize(
        replicas=st.integers(1, 2),
        policy=st.sampled_from(["reject", "queue", "fallback"]),
        routing=st.sampled_from(["least_load", "power_of_two", "prefix_affinity"]),
        settings=st.fixed_dictionaries(
            {
                "num_gpu_blocks": st.integers(4, 12),
                "max_num_seqs": st.integers(1, 4),
                "max_num_batched_tokens": st.integers(4, 64),
                "frontend_overhead_us": st.sampled_from([0.0, 500.0]),
                "runs_of_steps": st.booleans(),
                "startup_s": st.sampled_from([0.0, 0.05]),
                "block_size": st.just(4),
            }
        ),
        storage_gb_s=st.sampled_from([None, 24.0]),  # 50 ms for the weights, 25 from memory
        shuffle=st.none() | st.integers(0, 1 << 20),
        patience_s=st.sampled_from([0.0, 0.03, 60.0]),
    )
    def bring_up(
        self,
        replicas: int,
        policy: str,
        routing: str,
        settings: dict[str, Any],
        storage_gb_s: float | None,
        shuffle: int | None,
        patience_s: float,
    ) -> None:
        serving = {"max_concurrent": 3, "queue_capacity": 2, "on_capacity_exhausted": policy, "fallback": "spare"}
        serving["replica_wait_s"] = patience_s
        spare = {"name": "spare", "serving": {"max_concurrent": 2, "queue_capacity": 2}}
        self.serving = Serving(
            engine=settings,
            deployment={"replicas": replicas, "serving": serving},
            others=(spare,),
            routing={"policy": routing},
            cluster={
                "nodes": [
                    {"name": f"n{i}", "gpu": "H100", "gpus": 1, "storage_gb_s": storage_gb_s}
                    for i in range(replicas + 1)
                ]
            },
            shuffle_ties=shuffle,
            nodes=4,
        )
        self.serving.up()
        self.serving.audited = True
        self.answers: list[Any] = []
        self.cancelled: dict[int, float] = {}

    @rule(
        prompt=st.integers(-1, 40),
        output=st.integers(0, 30),
        model=st.sampled_from(["m", "m", "m", "spare", "nobody"]),
        timeout_s=st.none() | TIMES,
        priority=st.integers(0, 1),
        most=st.none() | st.integers(1, 20),
    )
    def submit(
        self, prompt: int, output: int, model: str, timeout_s: float | None, priority: int, most: int | None
    ) -> None:
        self.serving.submit(
            prompt, output, model, timeout_s=timeout_s, priority=priority, sampling=Sampling(max_tokens=most)
        )

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.integers(1, self.serving.submitted + 1))
        self.serving.cancel(request)
        if request <= self.serving.submitted and request not in self.serving.client.ended:
            self.cancelled.setdefault(request, self.serving.system.now)

    @rule(seconds=TIMES.filter(bool))
    def wait(self, seconds: float) -> None:
        self.serving.run(seconds)

    @rule(node=st.sampled_from(NODES), error=st.sampled_from(FAULTS))
    def fault(self, node: str, error: Exception) -> None:
        self.serving.faults.next[node] = error

    @rule(name=st.sampled_from(["m", "spare"]))
    def remove(self, name: str) -> None:
        self.answers.append(self.serving.system.promise("removed"))
        self.serving.system.tell(self.serving.stack.manager, Remove(name, self.answers[-1].ref))

    @rule(at=st.integers(0, 1))
    def apply(self, at: int) -> None:
        self.serving.system.tell(self.serving.stack.manager, Apply(self.serving.scenario.deployment[at]))

    @rule(name=st.sampled_from(["m", "m", "spare"]), replicas=st.integers(1, 4))
    def scale(self, name: str, replicas: int) -> None:
        self.answers.append(self.serving.scale(replicas, name))

    @rule(node=st.sampled_from(NODES))
    def lose(self, node: str) -> None:
        self.serving.lose(node)

    @rule(node=st.sampled_from(NODES))
    def bring_back(self, node: str) -> None:
        self.serving.bring_back(node)

    @invariant()
    @precondition(lambda self: hasattr(self, "serving"))
    def limits_hold(self) -> None:
        self.serving.check_engines()
        loader = self.loader()
        if loader is not None:
            loader.check()

    def loader(self) -> Any:
        """The core of the weight loader, where there is one."""
        cell = self.serving.system.root.children.get("loader")
        return None if cell is None else cell.actor._loading  # type: ignore[union-attr]

    def teardown(self) -> None:
        if not hasattr(self, "serving"):
            return
        serving = self.serving
        serving.faults.next.clear()
        serving.finish()
        assert set(serving.outcomes()) <= OUTCOMES
        for request, at in self.cancelled.items():
            if request in serving.client.ended and serving.outcome(request) == "cancelled":
                assert serving.client.ended_at[request] <= at + STEP_S + 1e-9
        serving.run(1.0)
        serving.check_gpus(still=True)
        assert all(answer.done for answer in self.answers)
        serving.check_idle()
        assert self.loader() is None or self.loader().under_way == ()
        self._tokens_are_the_requests()
        self._metrics_are_the_logs()

    def _tokens_are_the_requests(self) -> None:
        """Who ended well has all of its tokens: so many as it was to have, each once and in order of time."""
        for row in self.serving.records():
            if row["outcome"] in ("stop", "length"):
                assert row["output_tokens"] >= 1
                times = self.serving.client.times(row["request_id"])
                assert len(set(times)) == len(times) == row["output_tokens"]
                assert row["replica"] >= 0

    def _metrics_are_the_logs(self) -> None:
        rows, counters = self.serving.records(), self.serving.counters()
        assert {row["deployment"] for row in rows} == set(counters)
        for name, counted in counters.items():
            mine = [row for row in rows if row["deployment"] == name]
            ends = [row["outcome"] for row in mine]
            assert counted.succeeded == ends.count("stop") + ends.count("length")
            assert counted.cancelled == ends.count("cancelled")
            assert counted.failed == {
                end: ends.count(end) for end in sorted(set(ends)) if end not in ("stop", "length", "cancelled")
            }
            assert counted.output_tokens == sum(row["output_tokens"] for row in mine)
            assert counted.cached_tokens == sum(row["cached_tokens"] for row in mine)


TestServing = ServingMachine.TestCase
TestServing.settings = settings(deadline=None, stateful_step_count=30)
