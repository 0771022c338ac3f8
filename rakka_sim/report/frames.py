"""The log as pandas tables, in the public names and units; nothing may be computed here."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rakka_sim.records import EventLog
from rakka_sim.report.measures import Array, Measures


def _names(codes: Array, names: tuple[str, ...]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype="str"))


def requests_frame(measures: Measures) -> pd.DataFrame:
    """One row per request, by request_id; `slo_ok` is whether it completed within the objectives, if any."""
    log, of = measures.log, measures.of
    return pd.DataFrame(
        {
            "request_id": of["request_id"],
            "deployment": _names(of["deployment"], log.deployments),
            "replica": of["replica"],
            "arrival_s": of["arrival"],
            "scheduled_s": of["scheduled"],
            "first_token_s": of["first_token"],
            "last_token_s": of["last_token"],
            "prompt_tokens": of["prompt_tokens"],
            "output_tokens": of["output_tokens"],
            "cached_tokens": of["cached_tokens"],
            "ttft_ms": measures.ttft_ms,
            "tpot_ms": measures.tpot_ms,
            "e2e_ms": measures.e2e_ms,
            "preemptions": of["preemptions"],
            "outcome": _names(of["outcome"], log.outcomes),
            "session": of["session"],
            "ended_s": of["ended"],
            "queue_ms": measures.queue_ms,
            "slo_ok": measures.slo_ok,
        }
    )


def steps_frame(log: EventLog) -> pd.DataFrame:
    """One row per engine step, by start; `replica` counts within `deployment`."""
    of, facts = log.step_columns(), log.replicas
    names = tuple(sorted({replica.deployment for replica in facts}))
    deployment = np.array([names.index(replica.deployment) for replica in facts], np.int8 if len(names) < 128 else int)
    number = np.array([replica.replica for replica in facts], np.int32)
    return pd.DataFrame(
        {
            "start_s": of["start"],
            "seconds": of["end"] - of["start"],
            "replica": number[of["replica"]],
            "prefill_tokens": of["prefill_tokens"],
            "decode_seqs": of["decode_seqs"],
            "kv_blocks": of["kv_blocks"],
            "context_tokens": of["context_tokens"],
            "max_context": of["max_context"],
            "running": of["running"],
            "waiting": of["waiting"],
            "preempted": of["preempted"],
            "deployment": _names(deployment[of["replica"]], names),
        }
    )
