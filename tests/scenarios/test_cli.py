"""The command line as its users have it: a process, its exit code, what it prints and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import rakka_sim
from rakka_sim.config.scenario import MODES
from rakka_sim.report import files
from rakka_sim.workload.datasets import lookup

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "rakka_sim"]
DATASET = lookup("azure-2023-conv")

TINY = """
name = "tiny"
[[cluster.nodes]]
name = "n"
gpu = "L40S"
gpus = 2
[[deployment]]
name = "m"
model = "Qwen3-0.6B"
replicas = 2
[workload]
requests = 20
arrivals = { kind = "poisson", rate = 50.0 }
lengths = { kind = "fixed", prompt = 30, output = 10 }
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return file


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment without any dataset, whose loopback goes through no proxy."""
    unset = ("RAKKA_SIM_DATA", "RAKKA_SIM_MIRROR")
    kept = {name: text for name, text in os.environ.items() if name not in unset}
    return {**kept, "XDG_CACHE_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def rakka(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=env, timeout=60)


def test_json_is_one_object_and_nothing_else(scenario: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = rakka("run", scenario, "--json", "--seed", 5, "--set", "workload.requests=12", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    same = rakka_sim.run(scenario, seed=5, overrides={"workload.requests": 12})
    assert printed["digest"] == same.digest
    timed = {"wall_s": printed["wall_s"]}
    assert printed == {**json.loads(json.dumps(same.summary())), **timed, "digest": same.digest}
    assert {"p50", "p90", "p95", "p99", "mean"} <= set(printed["ttft_ms"])
    saved = files.load(out)
    assert saved.summary["digest"] == same.digest
    assert len(saved.requests) == 12
    assert len(saved.steps) == len(same.steps)
    assert sorted(path.suffix for path in (out / "plots").iterdir()) == [".png"] * len(list((out / "plots").iterdir()))
    assert list((out / "plots").iterdir())


def test_a_person_gets_a_table(scenario: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = rakka("run", scenario, "--out", out)
    assert done.returncode == 0
    assert str(rakka_sim.run(scenario)).splitlines()[2:7] == done.stdout.splitlines()[2:7]
    assert str(out) in done.stdout.splitlines()[-1]
    assert (out / "summary.json").is_file()


def test_quiet_says_nothing(scenario: Path, tmp_path: Path) -> None:
    done = rakka("run", scenario, "--quiet", "--no-save", "--out", tmp_path / "report")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_the_scenario_for_any_cpu_runs_in_all_four_modes() -> None:
    digests = {}
    for mode in MODES:
        done = rakka("run", ROOT / "scenarios/tiny_cpu.toml", "--mode", mode, "--json", "--no-save", "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(done.stdout)
        assert (mode, found["outcomes"]) == (mode, {"stop": 64})
        digests[mode] = found["digest"]
    assert digests["lockstep"] == digests["simulate"]
    assert len(set(digests.values())) == 3


BAD_INPUT = {
    "no such file": (["run", "nowhere.toml"], "nowhere.toml"),
    "unknown key": (["run", "{}", "--set", "deployment.0.replica=1"], "replicas"),
    "impossible value": (["run", "{}", "--set", "workload.arrivals.rate=-1"], "greater than or equal to 0.000001"),
    "not an assignment": (["run", "{}", "--set", "seed"], "key=value"),
    "unknown policy": (["run", "{}", "--set", "routing.policy=fastest"], "round_robin"),
    "unknown mode": (["run", "{}", "--mode", "warp"], "simulate"),
    "not built": (
        ["run", "{}", "--set", "deployment.m.model=gpt-4o", "--set", "cluster.nodes.n.egress=true"],
        "not built",
    ),
    "too few GPUs": (["run", "{}", "--set", "deployment.0.replicas=3"], "GPUs"),
    "unknown dataset": (["fetch", "azure-1999"], "azure-2023-conv"),
    "unknown option": (["run", "{}", "--fast"], "--fast"),
    "a place for the report that is none": (["run", "{}", "--out", "/dev/null/x"], "report folder"),
}


@pytest.mark.parametrize(("arguments", "told"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_2_and_says_what_may_stand_there(scenario: Path, arguments: list[str], told: str) -> None:
    done = rakka(*[argument.format(scenario) for argument in arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_dataset_is_2_and_says_how_to_get_it(bare: dict[str, str]) -> None:
    done = rakka("validate", ROOT / "scenarios/azure_conv.toml", "--set", "workload.trace.data_dirs=[]", env=bare)
    assert done.returncode == 2
    assert "rakka-sim fetch azure-2023-conv" in done.stderr


def test_a_malformed_trace_is_2_and_names_the_place(scenario: Path, tmp_path: Path) -> None:
    rows = [{"prompt_tokens": 5, "output_tokens": 2, "arrival_s": 0.5}, {"prompt_tokens": "five", "output_tokens": 2}]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scenario.write_text(TINY.partition("[workload]")[0] + '[workload.trace]\nformat = "vllm"\npath = "trace.jsonl"\n')
    done = rakka("run", scenario, "--no-save")
    assert done.returncode == 2
    assert "trace.jsonl, line 2, field prompt_tokens: 'five'" in done.stderr


def test_a_failed_run_is_1_and_leaves_no_report(scenario: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = rakka("run", scenario, "--out", out, "--set", "deployment.0.runtime_config.startup_s=4000")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the run failed at t=3600.000 s" in done.stderr
    assert not out.exists()


def test_an_interrupt_is_130_and_leaves_no_report(scenario: Path, tmp_path: Path) -> None:
    """Ctrl-C as soon as the progress bar, which is there only on a terminal, says that the run is under way."""
    out = tmp_path / "report"
    ours, terminal = pty.openpty()  # as wide as many a terminal claims to be: 0 columns
    process = subprocess.Popen(
        [*COMMAND, "run", str(scenario), "--out", str(out), "--set", "workload.requests=100000000"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        # A shell's background jobs are deaf to it, and so are their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(terminal)
    seen = b""
    try:
        while b"req/s" not in seen:
            seen += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        while b"interrupted" not in seen:
            seen += os.read(ours, 1000)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        printed, _ = process.communicate()
        os.close(ours)
    assert printed == b""
    assert b"Traceback" not in seen
    assert not out.exists()


def test_validate_runs_nothing(scenario: Path) -> None:
    done = rakka("validate", scenario, "--set", "deployment.0.runtime_config.num_gpu_blocks=77")
    assert (done.returncode, done.stderr) == (0, "")
    assert "77 KV blocks" in done.stdout
    assert "20 requests" in done.stdout


def test_the_schema_takes_what_we_ship_and_refuses_what_we_refuse(scenario: Path) -> None:
    done = rakka("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = jsonschema.Draft202012Validator(schema)
    shipped = sorted((ROOT / "scenarios").glob("*.toml"))
    assert shipped
    for file in [scenario, *shipped]:
        valid.validate(tomllib.loads(file.read_text("utf-8")))
    wrong: dict[str, Any] = tomllib.loads(TINY)
    for place in (wrong, wrong["deployment"][0], wrong["workload"], wrong["cluster"]["nodes"][0]):
        place["nonsense"] = 1
        assert not valid.is_valid(wrong)
        del place["nonsense"]
    assert valid.is_valid(wrong)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and keeps no record of it."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and where it is served: on loopback, by a real server."""
    folder = tmp_path / "public"
    (folder / DATASET.public).parent.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetch_gets_the_dataset_and_runs_find_it(
    shared_data: Path, mirror: tuple[Path, str], bare: dict[str, str]
) -> None:
    folder, url = mirror
    (folder / DATASET.public).write_bytes((shared_data / "traces" / DATASET.file).read_bytes())
    done = rakka("fetch", DATASET.name, env={**bare, "RAKKA_SIM_MIRROR": url})
    assert (done.returncode, done.stderr) == (0, "")
    fetched = Path(done.stdout.strip())
    assert fetched.is_relative_to(bare["XDG_CACHE_HOME"])
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == DATASET.sha256
    azure = ROOT / "scenarios/azure_conv.toml"
    found = rakka("validate", azure, "--set", "workload.trace.data_dirs=[]", env=bare)
    assert f"{DATASET.rows} requests" in found.stdout.replace(",", "")


def test_fetch_keeps_nothing_that_is_not_the_dataset(mirror: tuple[Path, str], bare: dict[str, str]) -> None:
    folder, url = mirror
    (folder / DATASET.public).write_bytes(b"x" * DATASET.bytes)
    done = rakka("fetch", DATASET.name, env={**bare, "RAKKA_SIM_MIRROR": url})
    assert (done.returncode, done.stdout) == (1, "")
    assert "checksum" in done.stderr
    assert [path for path in Path(bare["XDG_CACHE_HOME"]).rglob("*") if path.is_file()] == []


def test_fetch_lists_what_there_is() -> None:
    done = rakka("fetch", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert DATASET.name in done.stdout
    assert DATASET.licence in done.stdout
