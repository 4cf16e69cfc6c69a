"""The command line: `isobench-ray COMMAND`. Loads what a command needs only when it is called.

Exit codes: 0 all planned work has an outcome; 1 finished, but some work ended as failures (or
`verify` found something); 2 bad input, nothing written; 3 stopped early and resumable; 4 internal
error, traceback saved.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isobench_ray import __version__
from isobench_ray.errors import IsobenchError, StoppedEarly, UserError

if TYPE_CHECKING:
    from isobench_ray.api import Plan, RunSummary
    from isobench_ray.planning import RunOptions
    from isobench_ray.results import Results
    from isobench_ray.stages.leak_audit import LeakReport

app = typer.Typer(
    name="isobench-ray",
    help="Run coding agents on performance commits, in parallel on Ray, and judge their patches.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Stage(StrEnum):
    """A stage that `run` can be kept to."""

    SOLVE = "solve"
    MEASURE = "measure"
    JUDGE = "judge"


class Format(StrEnum):
    """A form of the report."""

    MD = "md"
    JSON = "json"
    HTML = "html"


class AuditFormat(StrEnum):
    """A form of the audit."""

    TEXT = "text"
    JSON = "json"


ExperimentFile = Annotated[Path, typer.Argument(help="The experiment file (YAML).")]
ResultsPath = Annotated[str, typer.Argument(metavar="RESULTS", help="The results folder.")]
ResultsOption = Annotated[
    str | None, typer.Option("--results", help="Results folder instead of the file's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: key.subkey=value, in YAML. May be repeated."),
]
StageOption = Annotated[
    list[Stage] | None, typer.Option("--stage", help="Only this stage. May be repeated.")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", help="Only this task or trial. May be repeated.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most N tasks.")]
RetryOption = Annotated[
    bool, typer.Option("--retry-failures", help="Repeat also failures that never repeat.")
]


@app.command()
def run(
    experiment: ExperimentFile,
    results: ResultsOption = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster; default: this machine alone.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="This machine alone (default).")] = False,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs of this machine to use; default: all.")
    ] = None,
    stage: StageOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    retry_failures: RetryOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and end.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Run an experiment, or go on with it: finished work is never repeated."""
    if local and address:
        raise UserError("--local and --address exclude each other")
    if address and gpus is not None:
        raise UserError("--gpus is for this machine; a cluster knows its own GPUs")
    from isobench_ray import api

    options = _options(stage, only, limit, retry_failures)
    loaded = api.load_experiment(experiment, tuple(overrides or ()))
    if dry_run:
        _print_plan(api.plan(loaded, results, options))
        return
    uri = results or loaded.results_uri
    try:
        summary = api.run(loaded, results, address=address, gpus=gpus, options=options)
    except (StoppedEarly, KeyboardInterrupt) as stop:
        words = str(stop) or "interrupted"
        raise StoppedEarly(f"{words}\nresults: {uri}\ngo on with: {_this_command()}") from stop
    _print_end(summary, experiment)
    raise typer.Exit(summary.exit_code)


@app.command()
def plan(
    experiment: ExperimentFile,
    results: ResultsOption = None,
    stage: StageOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    retry_failures: RetryOption = False,
    overrides: SetOption = None,
) -> None:
    """Say what would run, and why. Nothing is started or written."""
    from isobench_ray import api

    loaded = api.load_experiment(experiment, tuple(overrides or ()))
    _print_plan(api.plan(loaded, results, _options(stage, only, limit, retry_failures)))


@app.command()
def status(results: ResultsPath) -> None:
    """Say how far a run is: live, finished or stopped."""
    from isobench_ray.reporting.content import build_report

    opened = _open(results)
    report = build_report(opened)
    print(f"{report.name}: {report.state}")
    print(f"trials: {report.planned} planned = {_counts(report.counts)}")
    print(f"verdicts: {_counts(report.verdict_counts)}")
    for line in report.failures:
        print(f"failure: {len(line.work)} {line.failure_class} -> {line.advice}")
    if report.lost_executions:
        print(f"executions without a record: {len(report.lost_executions)}")
    if report.state == "running":
        print(f"watch again: isobench-ray status {shlex.quote(results)}")
    elif report.state == "partial":
        print("go on: the same `isobench-ray run` command as before")
    else:
        print(f"next: isobench-ray report {shlex.quote(results)}")


@app.command()
def report(
    results: Annotated[list[str], typer.Argument(metavar="RESULTS", help="The results folder.")],
    form: Annotated[Format, typer.Option("--format", help="Form of the report.")] = Format.MD,
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
) -> None:
    """Print the report of Results."""
    if form is Format.HTML:
        raise UserError("--format html is not in this release; use md or json")
    if len(results) > 1:
        raise UserError("a report over several Results is not in this release; name one")
    from isobench_ray.reporting.content import build_report
    from isobench_ray.reporting.markdown import render_markdown

    content = build_report(_open(results[0]))
    text = render_markdown(content) if form is Format.MD else content.model_dump_json(indent=2)
    if out is None:
        print(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error


@app.command()
def show(
    results: ResultsPath,
    trial: Annotated[str, typer.Argument(help="task/agent or task/agent/attempt-k.")],
    patch: Annotated[bool, typer.Option("--patch", help="The patch.")] = False,
    trajectory: Annotated[bool, typer.Option("--trajectory", help="The agent's own log.")] = False,
    prompt: Annotated[bool, typer.Option("--prompt", help="What the agent was told.")] = False,
    log: Annotated[bool, typer.Option("--log", help="What the agent printed.")] = False,
) -> None:
    """Show one trial: its record, or one of its files."""
    from isobench_ray.reporting.show import show_trial

    chosen = {
        "model_patch.diff": patch,
        "trajectory.json": trajectory,
        "prompt.md": prompt,
        "stdout.log": log,
        "stderr.log": log,
    }
    print(show_trial(_open(results), trial, [name for name, on in chosen.items() if on]))


@app.command()
def dataset(results: ResultsPath) -> None:
    """Rebuild the Parquet tables from the records."""
    from isobench_ray.api import rebuild_dataset

    for name, rows in rebuild_dataset(_open(results)).items():
        print(f"{name}: {rows} rows")


@app.command()
def verify(results: ResultsPath) -> None:
    """Audit Results: records parse, hashes match, counts add up, tables equal records."""
    from isobench_ray.audit import audit
    from isobench_ray.reporting.content import require_lock

    opened = _open(results)
    problems = audit(opened, require_lock(opened))
    for problem in problems:
        print(problem)
    print(f"{opened.uri}: {len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''} found")
    raise typer.Exit(1 if problems else 0)


@app.command("audit-workspace")
def audit_workspace(
    experiment: ExperimentFile,
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Task ids or globs; all.")
    ] = None,
    form: Annotated[AuditFormat, typer.Option("--format", help="Form of it.")] = AuditFormat.TEXT,
    overrides: SetOption = None,
) -> None:
    """Try every known way to the human's commit from inside a workspace, in the worst case."""
    from isobench_ray import api

    loaded = api.load_experiment(experiment, tuple(overrides or ()))
    reports = []
    for found in api.audit_workspaces(loaded, tuple(tasks or ())):
        reports.append(found)
        if form is AuditFormat.TEXT:
            print(_audit_lines(found, details=len(tasks or ()) == 1), flush=True)
    if form is AuditFormat.JSON:
        print(json.dumps([r.model_dump(mode="json") for r in reports], indent=2))
    open_ways = sum(len(found.leaks) for found in reports)
    clean = sum(found.is_clean for found in reports)
    if form is AuditFormat.TEXT:
        print(f"{len(reports)} tasks audited, {clean} without a finding, {open_ways} open ways")
    raise typer.Exit(0 if clean == len(reports) else 1)


def _audit_lines(found: LeakReport, *, details: bool) -> str:
    """One line for a task, one for each way if wanted, and one for each thing that was found."""
    words = f"{len(found.leaks)} of {len(found.ways)} ways open" if found.leaks else "no way open"
    replay = "gives the human's tree" if found.is_replayed else "DOES NOT give the human's tree"
    how = f"{len(found.ways)} tried; {found.sandbox}, {found.workspace_kind}"
    lines = [f"{found.task_id}: {words} ({how}); replaying the human's diff {replay}"]
    for way in found.ways:
        if details or way.found:
            lines.append(f"  {'OPEN  ' if way.found else 'closed'}  {way.way}")
        lines += [f"          {thing}" for thing in way.found[:5]]
        if len(way.found) > 5:
            lines.append(f"          … and {len(way.found) - 5} more")
    return "\n".join(lines)


LATER_COMMANDS = (
    "agents", "clean", "compare", "doctor", "export", "fetch", "import", "init",
    "judge", "tasks", "view",
)  # fmt: skip


def _refuse(name: str) -> Callable[[], None]:
    def refuse() -> None:
        raise UserError(f"`{name}` is not in this release")

    return refuse


for _name in LATER_COMMANDS:
    app.command(
        _name,
        hidden=True,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_refuse(_name))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except StoppedEarly as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    except IsobenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(4)
    except Exception:  # noqa: BLE001 - the last boundary keeps the traceback and says where
        sys.exit(_internal_error())


def _internal_error() -> int:
    with tempfile.NamedTemporaryFile(
        "w", prefix="isobench-ray-error-", suffix=".txt", delete=False
    ) as file:
        file.write(traceback.format_exc())
    reason = traceback.format_exc().strip().splitlines()[-1]
    print(f"internal error: {reason}\ntraceback: {file.name}", file=sys.stderr)
    print(f"finished work is safe; try again: {_this_command()}", file=sys.stderr)
    return 4


def _this_command() -> str:
    return shlex.join(["isobench-ray", *sys.argv[1:]])


def _open(results: str) -> Results:
    from isobench_ray.results import open_results

    return open_results(results)


def _options(
    stage: list[Stage] | None, only: list[str] | None, limit: int | None, retry_failures: bool
) -> RunOptions:
    if stage and Stage.JUDGE in stage:
        raise UserError("--stage judge is not in this release")
    from isobench_ray.planning import RunOptions

    stages = tuple(str(s) for s in stage) if stage else ("solve", "measure")
    return RunOptions(stages, tuple(only or ()), limit, retry_failures)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {word}" for word, n in counts.items()) or "none yet"


def _print_plan(found: Plan) -> None:
    trials = [item for item in found.open_work if item.stage == "solve"]
    sessions = [item for item in found.open_work if item.stage == "measure"]
    print(f"{found.planned} trials planned, {found.done} finished, {len(trials)} to run")
    for item in trials:
        print(f"  solve    {item.key.work_id}")
    for item in sessions:
        print(f"  measure  {item.task_id} ({item.key.work} {item.key.work_id.split('/')[-1]})")
    if trials:
        print("  measure  a session per task, once all of its trials have ended")
    for trial_id in found.blocked:
        failure = found.resolved.tasks[trial_id.split("/")[0]].failure
        if failure is not None:
            print(f"  blocked  {trial_id}: {failure.failure_class}: {failure.message}")
    print("nothing was started or written")


def _print_end(summary: RunSummary, experiment: Path) -> None:
    from isobench_ray.reporting.content import build_report

    found = build_report(summary.results)
    print(f"{found.name}: {found.state}; {found.planned} planned = {_counts(found.counts)}")
    print(f"verdicts: {_counts(found.verdict_counts)}")
    for line in found.failures:
        print(f"failure: {len(line.work)} {line.failure_class} -> {line.advice}")
    uri = summary.results.uri
    print(f"results: {uri}")
    command = ["report", uri]
    if found.state == "partial" and not found.failures:
        command = ["run", str(experiment), "--results", uri]
    print(f"next: {shlex.join(['isobench-ray', *command])}")


if __name__ == "__main__":
    main()
