"""The command line: a thin wrapper over the functions that a notebook calls; nothing else may be here.

Exit codes: 0, 2 for bad input, 1 for a failed run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rakka_sim.errors import InputError, NotBuilt, PlacementError, RakkaError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A testbed for LLM-inference serving.",
)

topologies = typer.Typer(no_args_is_help=True, help="How GPUs are joined: machines, files, this machine.")
app.add_typer(topologies, name="topology")

BAD_INPUT, FAILED = 2, 1
ScenarioFile = Annotated[Path, typer.Argument(help="a scenario in TOML", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key, as in deployment.0.replicas=4")
]


def _fail(error: RakkaError) -> NoReturn:
    typer.echo(f"rakka-sim: {error}", err=True)
    bad_input = isinstance(error, InputError | NotBuilt | PlacementError)
    raise typer.Exit(BAD_INPUT if bad_input else FAILED)


def _guarded(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except RakkaError as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("rakka-sim: interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None


def _overrides(sets: list[str] | None) -> dict[str, Any]:
    from rakka_sim.config.loading import parse_assignment

    return dict(parse_assignment(text) for text in sets or [])


@app.command()
def run(
    scenario: ScenarioFile,
    mode: Annotated[str, typer.Option(help="simulate, lockstep, emulate or live")] = "simulate",
    seed: Annotated[int | None, typer.Option(help="instead of the scenario's", min=0)] = None,
    seeds: Annotated[int, typer.Option(help="how many seeds to run, from the first on", min=1)] = 1,
    sets: Sets = None,
    out: Annotated[Path, typer.Option(help="folder for the report")] = Path("report"),
    save: Annotated[bool, typer.Option(help="write the report's files")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print summary and digest as one JSON object")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar and no table")] = False,
) -> None:
    """Run a scenario, print a summary, write a report."""

    def work() -> None:
        from rakka_sim.experiment import run as run_scenario

        overrides = _overrides(sets)
        if save:
            from rakka_sim.report.files import check_folder

            check_folder(out)  # before a long run, not after it
        progress = False if quiet or as_json else None
        report = run_scenario(scenario, mode=mode, seed=seed, seeds=seeds, progress=progress, overrides=overrides)
        where = report.save(out) if save else None
        if as_json:
            typer.echo(json.dumps({**report.summary(), "digest": report.digest}, allow_nan=False))
        elif not quiet:
            typer.echo(str(report))
            if where is not None:
                typer.echo(f"\nreport: {where}")

    _guarded(work)


@app.command()
def validate(scenario: ScenarioFile, sets: Sets = None) -> None:
    """Check a scenario without running it: its keys, values, names, and that the models fit their GPUs."""

    def work() -> None:
        from rakka_sim.experiment import check

        for line in check(scenario, overrides=_overrides(sets)):
            typer.echo(line)

    _guarded(work)


@app.command()
def place(
    scenario: ScenarioFile,
    policy: Annotated[str | None, typer.Option(help="instead of the scenario's, such as topology or pack")] = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="a folder for both, or a picture (PNG, PDF, SVG), or JSON")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print it as one JSON object")] = False,
) -> None:
    """Place a scenario's deployments, run nothing: which GPUs each replica gets, and how they are joined."""

    def work() -> None:
        from rakka_sim.experiment import place as place_scenario

        overrides = _overrides(sets) | ({} if policy is None else {"placement.policy": policy})
        placed = place_scenario(scenario, overrides=overrides)
        where = None if out is None else placed.save(out)
        typer.echo(json.dumps(placed.data, indent=2, allow_nan=False) if as_json else str(placed))
        if where is not None and not as_json:
            typer.echo(f"\nwritten: {where}")
        if placed.refused:
            raise typer.Exit(FAILED)

    _guarded(work)


@topologies.command("show")
def topology_show(
    what: Annotated[str, typer.Argument(help="a machine of `topology list`, a file, or 'live' for this machine")],
    model: Annotated[str, typer.Option(help="what the GPUs are, where the file does not say")] = "",
    out: Annotated[Path | None, typer.Option(help="write a picture of it there (PNG, PDF or SVG)")] = None,
) -> None:
    """Print how the GPUs of a machine are joined: the matrix, the islands, what was wrong with the file.

    Files: NCCL topologies (XML), saved `nvidia-smi topo -m`, cluster trees of topograph (YAML), scenarios (TOML).
    """

    def work() -> None:
        from rakka_sim.hardware.find import find_topology
        from rakka_sim.report.cluster_plot import draw
        from rakka_sim.report.files import save_figure
        from rakka_sim.report.topology_text import describe

        found = find_topology(what, model)
        where = None if out is None else save_figure(draw(found), out)
        typer.echo(describe(found))
        if where is not None:
            typer.echo(f"\npicture: {where}")

    _guarded(work)


@topologies.command("list")
def topology_list() -> None:
    """List the machines that are known by name."""
    from rakka_sim.config.machines import MACHINES

    for spec in MACHINES:
        typer.echo(f"{spec.name:<14} {spec.gpus:>2} x {spec.gpu:<8} {spec.title}")
    typer.echo(f"{'nvl72':<14} 72 x {'GB200':<8} GB200 NVL72, the rack of 18 trays")


@app.command()
def schema() -> None:
    """Print the JSON schema of scenario files, for editors."""
    from rakka_sim.config.scenario import Scenario

    typer.echo(json.dumps(Scenario.model_json_schema(), indent=2))


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help="such as azure-2023-conv; 'list' shows all")],
    url: Annotated[str | None, typer.Option(help="another place to fetch it from")] = None,
) -> None:
    """Download a public trace into the cache, with its checksum verified."""

    def work() -> None:
        from rakka_sim.workload import datasets

        if dataset == "list":
            for entry in datasets.CATALOGUE:
                typer.echo(f"{entry.name:24} {entry.bytes:>9,} bytes  {entry.licence:<10}  {entry.citation}")
            return
        typer.echo(str(datasets.fetch(dataset, url=url)))

    _guarded(work)


@app.command()
def version() -> None:
    """Print the version, and whether the hot modules are compiled."""
    from importlib.metadata import version as installed

    from rakka_sim.compiled import is_compiled

    typer.echo(installed("rakka_sim") + (", compiled" if is_compiled() else ""))


def main() -> None:
    """The `rakka-sim` command."""
    try:
        app()
    except BrokenPipeError:  # `rakka-sim ... | head`
        sys.stderr.close()
