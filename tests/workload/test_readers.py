"""Trace readers: what was written is read, what is malformed is named by file, line and field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.workload import Trace
from rakka_sim.errors import DatasetMissing, InputError, TraceError, UnknownName
from rakka_sim.workload import json_array
from rakka_sim.workload.readers import vllm
from rakka_sim.workload.readers.row import Row, Tally
from rakka_sim.workload.readers.trace import TraceFile

Build = Callable[..., Any]

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


def read(folder: Path, format: str, text: str | bytes, *, timed: bool = True, **more: Any) -> list[Row]:
    path = folder / "t"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(TraceFile(Trace(path="t", format=format, **more), folder).rows(timed))


def mooncake(at: Any, prompt: Any, output: Any, hashes: Any) -> str:
    return json.dumps({"timestamp": at, "input_length": prompt, "output_length": output, "hash_ids": hashes})


def sharegpt(*turns: str) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": "human", "value": text} for text in turns]}


# --- round trips ------------------------------------------------------------------------------------------------

TOKENS = st.integers(1, 2**31 - 1)
ROWS = st.lists(st.tuples(st.integers(0, 10**11), TOKENS, TOKENS), min_size=1, max_size=8)
ROWS_IN_SECONDS = st.lists(st.tuples(st.integers(0, 10**8), TOKENS, TOKENS), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@given(
    rows=ROWS,
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    start=st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1)),
)
def test_azure_round_trip(folder: Path, rows: list[Any], end: str, last: bool, start: datetime) -> None:
    lines, times, ticks = [AZURE], [], 0
    start = start.replace(microsecond=0)
    for gap, prompt, output in rows:
        ticks += gap
        whole = start + timedelta(seconds=ticks // 10**7)
        lines.append(f"{whole:%Y-%m-%d %H:%M:%S}.{ticks % 10**7:07},{prompt},{output}")
        times.append(ticks)
    text = end.join(lines) + end * last
    expected = [Row(p, o, (), (t - times[0]) / 10**7) for t, (_, p, o) in zip(times, rows, strict=True)]
    assert read(folder, "azure", text) == expected


@given(rows=ROWS, extra=st.sampled_from(["", "\n", " \r\n\r\n"]))
def test_mooncake_round_trip(folder: Path, rows: list[Any], extra: str) -> None:
    lines, expected, at = [], [], 0
    for gap, prompt, output in rows:
        at += gap
        prompt %= 5000
        hashes = tuple(range(prompt // 512 + 1))
        lines.append(mooncake(at, prompt + 1, output, hashes))
        expected.append(Row(prompt + 1, output, hashes, at / 1000 - rows[0][0] / 1000))
    got = read(folder, "mooncake", "\n".join(lines) + extra)
    assert [row[:3] for row in got] == [row[:3] for row in expected]
    assert [row.at for row in got] == pytest.approx([row.at for row in expected], abs=1e-3)


@given(tokens=st.integers(1, 100), prompts=st.lists(st.integers(1, 500), min_size=1, max_size=5))
def test_a_mooncake_trace_may_hash_other_blocks(folder: Path, tokens: int, prompts: list[int]) -> None:
    hashes = [tuple(range(-(-prompt // tokens))) for prompt in prompts]
    lines = [mooncake(0, prompt, 1, blocks) for prompt, blocks in zip(prompts, hashes, strict=True)]
    got = read(folder, "mooncake", "\n".join(lines), hashed_tokens=tokens)
    assert got == [Row(prompt, 1, blocks, 0.0) for prompt, blocks in zip(prompts, hashes, strict=True)]


@given(
    rows=ROWS_IN_SECONDS,
    names=st.sampled_from(
        [
            ("input_toks", "output_toks", "arrival_time_ns", 10**9),
            ("prompt_tokens", "output_tokens", "arrival_s", 1),
            ("input_toks", "output_toks", "arrival_time", 1),
        ]
    ),
)
def test_vllm_round_trip(folder: Path, rows: list[Any], names: tuple[str, str, str, int]) -> None:
    lines, expected, at = [], [], 0
    for gap, prompt, output in rows:
        at += gap
        lines.append(json.dumps({"request_id": "x", names[0]: prompt, names[1]: output, names[2]: at}))
        expected.append(Row(prompt, output, (), (at - rows[0][0]) / names[3]))
    assert read(folder, "vllm", "\n".join(lines)) == expected


@given(rows=ROWS_IN_SECONDS, failed=st.lists(st.booleans(), min_size=8, max_size=8), newer=st.booleans())
def test_burstgpt_round_trip(folder: Path, rows: list[Any], failed: list[bool], newer: bool) -> None:
    header = BURST.replace("Timestamp", "Timestamp,Session ID,Elapsed time") if newer else BURST
    lines, expected, at = [header], [], 0
    for (gap, prompt, output), fails in zip(rows, failed, strict=False):
        at += gap
        stamp = f"{at},7,0.5" if newer else f"{at}.0"
        lines.append(f"{stamp},ChatGPT,{prompt},{0 if fails else output},9,Conversation log")
        if not fails:
            expected.append(Row(prompt, output, (), float(at - rows[0][0])))
    (folder / "t").write_text("\n".join(lines))
    trace = TraceFile(Trace(path="t", format="burstgpt"), folder)
    assert list(trace.rows(True)) == expected
    assert trace.skipped == len(rows) - len(expected)


@given(
    texts=st.lists(st.lists(st.text(max_size=9), max_size=3), min_size=1, max_size=5),
    indent=st.sampled_from([None, 1]),
    block=st.integers(1, 40),
)
def test_sharegpt_round_trip(folder: Path, texts: list[list[str]], indent: int | None, block: int) -> None:
    whole = [turns for turns in texts if len(turns) >= 2 and turns[0] and turns[1]]
    sizes = [[len(text.encode()) for text in turns] for turns in whole]
    (folder / "t").write_text(json.dumps([sharegpt(*turns) for turns in texts], indent=indent))
    trace = TraceFile(Trace(path="t", format="sharegpt"), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_BLOCK", block)  # a window so small that every object crosses its end
        got = list(trace.rows(False))
    assert got == [Row((a + 3) // 4, (b + 3) // 4) for a, b, *_ in sizes]
    assert trace.skipped == len(texts) - len(whole)


def test_azure_of_2024_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = f"{AZURE}\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10T00:00:01Z,3,4\n"
    assert read(tmp_path, "azure", "\ufeff" + text) == [Row(2162, 5), Row(3, 4, (), 0.99007)]


def test_times_that_nobody_asked_for_are_not_read(tmp_path: Path) -> None:
    assert read(tmp_path, "azure", f"{AZURE}\nnever,3,4\nnever,5,6", timed=False) == [Row(3, 4), Row(5, 6)]
    assert read(tmp_path, "vllm", '{"input_toks": 3, "output_toks": 4}', timed=False) == [Row(3, 4)]


# --- what is malformed ------------------------------------------------------------------------------------------

GOOD = "2023-11-16 18:15:46.6805900,374,44"
TOKEN_FAULTS = ["", "0", "-1", "1.5", "nan", "1_0", "12a", "٣", "99999999999", " "]


def malformed() -> Iterator[tuple[str, str, int, str]]:
    for bad in TOKEN_FAULTS:
        yield "azure", f"{AZURE}\r\n{GOOD}\r\n2023-11-16 18:15:47,{bad},44", 3, "ContextTokens"
        yield "azure", f"{AZURE}\n{GOOD}\n\n2023-11-16 18:15:47,3,{bad}", 4, "GeneratedTokens"
        yield "burstgpt", f"{BURST}\n5,m,{bad},3,3,log", 2, "Request tokens"
        if bad != "0":
            yield "burstgpt", f"{BURST}\n5,m,3,{bad},3,log", 2, "Response tokens"
    for bad in [
        "",
        "2023-11-16",
        "2023-13-16 18:15:46",
        "2023-11-16 18:15:46.",
        "16.11.2023 18:15:46",
        "1700158546.68",
    ]:
        yield "azure", f"{AZURE}\n{GOOD}\n{bad},374,44", 3, "TIMESTAMP"
    yield "azure", f"{AZURE}\n{GOOD}\n2023-11-16 18:15:46.6805899,374,44", 3, "TIMESTAMP"
    yield "azure", f"{AZURE}\n{GOOD}\n{GOOD},9", 3, "row"
    yield "azure", f"{AZURE}\n{GOOD}\n2023-11-16 18:15:47,374", 3, "row"
    yield "azure", f'{AZURE}\n{GOOD}\n"2023', 3, "row"
    yield "azure", "TIMESTAMP,ContextTokens\n2023-11-16 18:15:47,374", 1, "GeneratedTokens"
    yield "azure", AZURE, 2, "row"
    for bad in ["-1", "nan", "inf", "x", ""]:
        yield "burstgpt", f"{BURST}\n5,m,3,3,6,log\n{bad},m,3,3,6,log", 3, "Timestamp"
    yield "burstgpt", f"{BURST}\n5,m,3,3,6,log\n4,m,3,3,6,log", 3, "Timestamp"
    yield "burstgpt", "Timestamp,Model,Request,Response tokens\n5,m,3,3", 1, "Request tokens"
    good = mooncake(5, 600, 7, [0, 1])
    for bad in [0, -1, 1.5, float("nan"), True, "7", None, 2**31, [7]]:
        yield "mooncake", f"{good}\n{mooncake(6, bad, 7, [0])}", 2, "input_length"
        yield "mooncake", f"{good}\n{mooncake(6, 7, bad, [0])}", 2, "output_length"
        yield "vllm", json.dumps({"input_toks": bad, "output_toks": 3, "arrival_time": 1}), 1, "input_toks"
        yield "vllm", json.dumps({"input_toks": 3, "output_toks": bad, "arrival_time": 1}), 1, "output_toks"
    for bad in [-1, float("nan"), float("inf"), True, "7", None, 4]:
        yield "mooncake", f"{good}\n{mooncake(bad, 7, 7, [0])}", 2, "timestamp"
    yield "mooncake", mooncake(True, 7, 7, [0]), 1, "timestamp"
    for bad in [[], [0, 1], [-1], [0.5], [True], None, 3]:
        yield "mooncake", f"{good}\n{mooncake(6, 7, 7, bad)}", 2, "hash_ids"
    yield "mooncake", f'{good}\n{{"timestamp": 6}}', 2, "input_length"
    for bad in ["{", "[1]", "null", "3", "{'a': 1}", "[" * 100_000, '{"input_length": ' + "9" * 5000 + "}"]:
        yield "mooncake", f"{good}\n{bad}", 2, "line"
    yield "vllm", '{"input_toks": 3, "output_toks": 4}', 1, "arrival_time"
    yield "vllm", '{"input_toks": 3, "output_toks": 4, "arrival_time": 1}\n{"prompt_tokens": 3}', 2, "input_toks"
    for bad in ["null", "{}", '{"a": 1}', "3", '"[{}]"']:
        yield "sharegpt", bad, 1, "element"
    exchange = json.dumps(sharegpt("a", "b"))
    for bad in [
        f"[\n{exchange}\n",
        f"[\n{exchange},\n]",
        f"[{exchange}\n{exchange}]",
        f"[{exchange},\n3]",
        f"[{exchange},\n{{",
    ]:
        yield "sharegpt", bad, bad.rstrip("\n").count("\n") + (2 if bad.endswith("\n") else 1), "element"
    for bad in ["[]", "[" + '{"a":' * 100_000]:
        yield "sharegpt", bad, 1, "element"
    yield "sharegpt", f'[\n{exchange},\n{{"id": 1}}]', 3, "conversations"
    indented = json.dumps([sharegpt("a", "b"), {"id": 1}], indent=1)
    yield "sharegpt", indented, indented[: indented.rindex("{")].count("\n") + 1, "conversations"
    yield "sharegpt", '[{"conversations": 3}]', 1, "conversations"
    yield "sharegpt", '[{"conversations": [{"from": "x"}, "y"]}]', 1, "conversations.value"
    for format in ("azure", "mooncake", "vllm", "burstgpt"):
        yield format, "", 1, "line"
        yield format, "\r\n \n", 1, "line"


@pytest.mark.parametrize(
    ("format", "text", "line", "field"), [pytest.param(*m, id=str(n)) for n, m in enumerate(malformed())]
)
def test_a_malformed_row_is_named(tmp_path: Path, format: str, text: str, line: int, field: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(tmp_path, format, text, timed=format != "sharegpt")
    error = caught.value
    assert (error.file, error.line, error.field) == (str(tmp_path / "t"), line, field)
    assert error.allowed
    assert f"line {line}, field {field}" in str(error)


@pytest.mark.parametrize("format", ["azure", "mooncake", "sharegpt"])
def test_what_is_not_utf8_is_named(tmp_path: Path, format: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(tmp_path, format, b"[\xff]", timed=False)
    assert (caught.value.line, caught.value.allowed) == (1, "UTF-8 text")


# --- windows, and finding the file ------------------------------------------------------------------------------

THREE = f"{AZURE}\n2023-11-16 18:15:40,1,1\n2023-11-16 18:15:45,2,2\n2023-11-16 18:15:47.5,3,3"


def test_offset_and_limit_cut_a_window(tmp_path: Path) -> None:
    assert read(tmp_path, "azure", THREE, offset_s=5) == [Row(2, 2, (), 0.0), Row(3, 3, (), 2.5)]
    assert read(tmp_path, "azure", THREE, offset_s=5, limit=1) == [Row(2, 2)]
    with pytest.raises(InputError) as caught:
        read(tmp_path, "azure", THREE, offset_s=8)
    assert (caught.value.where, caught.value.value) == ("workload.trace.offset_s", 8)


def test_a_source_replays_its_trace(tmp_path: Path, build: Build, drain: Build) -> None:
    (tmp_path / "t.csv").write_text(THREE)
    trace = {"path": "t.csv", "format": "azure"}
    source = build({"trace": trace}, base=tmp_path)
    assert source.total == 3
    assert [(at, r.prompt_tokens, r.output_tokens) for at, r in drain(source)] == [(0, 1, 1), (5, 2, 2), (7.5, 3, 3)]
    assert source.exhausted
    fast = build({"trace": trace, "arrivals": {"kind": "trace", "speedup": 2.5}, "requests": 2}, base=tmp_path)
    assert (fast.total, [at for at, _ in drain(fast)]) == (2, [0, 2])
    own = build({"trace": trace, "arrivals": {"kind": "constant", "rate": 1}}, base=tmp_path)
    assert [(at, r.prompt_tokens) for at, r in drain(own)] == [(1, 1), (2, 2), (3, 3)]
    closed = build({"trace": trace, "arrivals": {"kind": "closed", "concurrency": 2}}, base=tmp_path)
    assert [(at, r.prompt_tokens) for at, r in drain(closed)] == [(0, 1), (0, 2), (1, 3)]
    assert closed.exhausted
    started = build(
        {
            "trace": trace,
            "lengths": {"kind": "fixed", "prompt": 9, "output": 1},
            "sessions": {"turns": {"kind": "fixed", "turns": 2}},
        },
        base=tmp_path,
    )
    assert started.total is None
    assert [at for at, _ in drain(started)] == [0, 1, 5, 6, 7.5, 8.5]


def test_a_faulty_row_is_found_before_the_run(tmp_path: Path, build: Build) -> None:
    (tmp_path / "t.csv").write_text(THREE + "\n2023-11-16 18:15:49,3,0")
    trace = {"path": "t.csv", "format": "azure"}
    with pytest.raises(TraceError):
        build({"trace": trace}, base=tmp_path)
    assert build({"trace": trace, "requests": 3}, base=tmp_path).total == 3  # nobody will read that far


def test_skipped_rows_are_counted_by_the_source(tmp_path: Path, build: Build, drain: Build) -> None:
    (tmp_path / "b.csv").write_text(f"{BURST}\n5,m,3,0,3,log\n6,m,3,4,7,log\n9,m,3,0,3,log\n11,m,5,4,9,log\n")
    source = build({"trace": {"path": "b.csv", "format": "burstgpt"}}, base=tmp_path)
    assert source.total == 2
    assert [(at, request.prompt_tokens) for at, request in drain(source)] == [(1.0, 3), (6.0, 5)]
    assert source.skipped == 2
    (tmp_path / "b.csv").write_text(f"{BURST}\n5,m,3,0,3,log\n")
    with pytest.raises(InputError) as caught:
        build({"trace": {"path": "b.csv", "format": "burstgpt"}}, base=tmp_path)
    assert caught.value.where == "workload.trace"


def test_mooncake_prompts_share_their_blocks(tmp_path: Path, build: Build, drain: Build) -> None:
    rows = [mooncake(0, 1100, 5, [7, 8, 9]), mooncake(1, 1024, 5, [7, 8]), mooncake(2, 1030, 5, [7, 8, 4])]
    (tmp_path / "m").write_text("\n".join(rows))
    got = drain(build({"trace": {"path": "m", "format": "mooncake"}}, base=tmp_path))
    contents = [request.content for _, request in got]
    a, b, c, d = (source for source, _ in (*contents[0][:3], contents[2][2]))
    assert contents[0] == ((a, 512), (b, 512), (c, 76), (4, 0))
    assert contents[1] == ((a, 512), (b, 512), (8, 0))
    assert contents[2] == ((a, 512), (b, 512), (d, 6), (12, 0))
    assert len({a, b, c, d, 4, 8, 12}) == 7


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RAKKA_SIM_DATA", raising=False)
    with pytest.raises(InputError) as caught:
        TraceFile(Trace(path="none.csv", format="azure"), tmp_path)
    assert caught.value.where == "workload.trace.path"
    with pytest.raises(InputError):
        TraceFile(Trace(path=".", format="azure"), tmp_path)
    with pytest.raises(UnknownName):
        TraceFile(Trace(dataset="azure-2023"), tmp_path)
    with pytest.raises(InputError) as caught:
        TraceFile(Trace(dataset="azure-2023-conv", format="vllm"), tmp_path)
    assert caught.value.where == "workload.trace.format"
    with pytest.raises(DatasetMissing) as missing:
        TraceFile(Trace(dataset="azure-2023-conv", data_dirs=("here",)), tmp_path)
    assert list(missing.value.searched) == [str(tmp_path / "here"), str(tmp_path / "rakka_sim")]


# --- the recorded files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "count", "seconds"),
    [
        ("azure-2023-conv", 19_366, 3501.721937),
        ("azure-2023-code", 8_819, 3435.948056),
        ("mooncake-conversation", 12_031, 3536.999),
        ("mooncake-synthetic", 3_993, 1022.025),
    ],
)
def test_recorded_traces(shared_data: Path, dataset: str, count: int, seconds: float) -> None:
    rows = list(TraceFile(Trace(dataset=dataset, data_dirs=("traces",)), shared_data).rows(True))
    assert (len(rows), rows[0].at, rows[-1].at) == (count, 0.0, seconds)
    assert all(len(row.blocks) in (0, -(-row.prompt // 512)) for row in rows)


def test_azure_lengths_are_as_published(shared_data: Path) -> None:
    conv, code = (
        np.array([row[:2] for row in TraceFile(Trace(dataset=name, data_dirs=("traces",)), shared_data).rows(True)])
        for name in ("azure-2023-conv", "azure-2023-code")
    )
    assert conv.mean(axis=0).round().tolist() == [1155, 211]
    assert np.percentile(conv[:, 0], [50, 99, 100]).tolist() == [1020, 4142, 14050]
    assert np.median(conv[:, 1]) == 129
    assert code.mean(axis=0).round().tolist() == [2048, 28]


def test_mooncake_reuse_is_as_published(shared_data: Path) -> None:
    """With a cache that never forgets, 36.6 % of the conversation trace's blocks are hits."""
    rows = TraceFile(Trace(dataset="mooncake-conversation", data_dirs=("traces",)), shared_data).rows(True)
    seen: set[int] = set()
    blocks = hits = 0
    for row in rows:
        blocks += len(row.blocks)
        hits += sum(block in seen for block in row.blocks)
        seen.update(row.blocks)
    assert hits / blocks == pytest.approx(0.366, abs=0.0005)


@pytest.mark.parametrize("gpu", ["RTX4090", "RTXPRO6000"])
def test_recorded_vllm_runs(shared_data: Path, gpu: str) -> None:
    path = f"vllm_runs/{gpu}-Llama-3.1-8B/requests.jsonl"
    rows = list(TraceFile(Trace(path=path, format="vllm"), shared_data).rows(True))
    assert len(rows) == 300
    assert rows[0] == Row(2358, 531)
    assert 29.0 < rows[-1].at < 29.2


def test_a_time_beyond_any_clock_is_refused(folder: Path) -> None:
    """So far out, the times of two tokens would be the same float."""
    file = folder / "far.jsonl"
    file.write_text("".join(f'{{"prompt_tokens": 1, "output_tokens": 1, "arrival_s": {at}}}\n' for at in (0, 1e18)))
    with pytest.raises(TraceError, match=r"line 2, field arrival_s: 1e\+18 .* 1e\+09 s"):
        list(vllm.rows(file, True, Tally()))
