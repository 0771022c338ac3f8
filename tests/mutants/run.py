"""Breaks the package one line at a time, in a copy, and counts how many of the faults the tests notice.

    python tests/mutants/run.py [--only GROUP] [--json FILE]

A fault that no test notices is printed and makes the exit code 1. Each runs in its own process on its own copy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ahead
import batching
import blocks
import placement

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("rakka_sim", "tests", "pyproject.toml")


def survives(mutant: tuple[str, str, str, str], copies: Path, number: int) -> str:
    """Whether all tests pass in spite of a fault: '' if one fails, else what the fault is."""
    group, file, text, fault = mutant
    folder = copies / str(number)
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        folder.mkdir(exist_ok=True)
        copy(source, folder / part)
    path = folder / file
    original = path.read_text("utf-8")
    if original.count(text) != 1:
        return f"{file}: the text {text!r} is there {original.count(text)} times, not once"
    path.write_text(original.replace(text, fault), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    lists = {"ahead": ahead.tests_for} | {part.GROUP: lambda *_, part=part: part.TESTS for part in (batching, blocks)}
    command += lists.get(group, placement.tests_for)(group, file)
    # Derandomised: a fault that needs luck to be seen counts as unseen.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HYPOTHESIS_PROFILE"] = "mutants"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    shutil.rmtree(folder)
    if done.returncode == 1:
        return ""
    return f"{file}: {text!r} -> {fault!r} (pytest ended with {done.returncode})"


def every() -> list[tuple[str, str, str, str]]:
    """All faults: group, file, the text that is there once, and what stands in its place."""
    parts = [(part.GROUP, *fault) for part in (batching, blocks) for fault in part.FAULTS]
    return [*placement.all_mutants(), *parts, *ahead.all_mutants()]


def main() -> int:
    """Run them all and print killed/total by group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one group, such as a policy's name, shared, actors, scaling, blocks or ahead")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    mutants = [mutant for mutant in every() if options.only in (None, mutant[0])]
    with tempfile.TemporaryDirectory() as copies, ThreadPoolExecutor(options.jobs) as pool:
        numbers = range(len(mutants))
        outcomes = list(pool.map(lambda number: survives(mutants[number], Path(copies), number), numbers))
    groups: dict[str, list[str]] = {}
    for (group, *_), outcome in zip(mutants, outcomes, strict=True):
        groups.setdefault(group, []).append(outcome)
    for group, found in groups.items():
        print(f"{group:14} {sum(not outcome for outcome in found):3} of {len(found):3} killed")
    killed = sum(not outcome for outcome in outcomes)
    print(f"{'total':14} {killed:3} of {len(outcomes):3} killed")
    for outcome in outcomes:
        if outcome:
            print(f"  alive: {outcome}")
    if options.json:
        table = {group: {"killed": sum(not o for o in found), "of": len(found)} for group, found in groups.items()}
        options.json.write_text(json.dumps(table, indent=2) + "\n", "utf-8")
    return 0 if killed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
