"""From an experiment file to everything that a plan needs: tasks, trees, agents' inputs, lock.

Reads task files, patch files and repositories; writes nothing but mirrors in the user's cache.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from isobench_ray import __version__
from isobench_ray.addresses import same_repository
from isobench_ray.agents import AGENTS
from isobench_ray.errors import FailureRaised, UserError
from isobench_ray.experiment import AgentSpec, WorkspaceSettings
from isobench_ray.experiment_file import LoadedExperiment
from isobench_ray.failure import Failure, FailureClass, fail
from isobench_ray.lock import Lock, LockedAgent, LockedAnalysis, LockedTask
from isobench_ray.planning import (
    PlannedTask,
    PlannedTrial,
    ResolvedExperiment,
    measure_conditions,
    solve_identity,
)
from isobench_ray.plumbing import GitError
from isobench_ray.prompt import render_prompt
from isobench_ray.repository import (
    Repository,
    ResolvedTask,
    cache_folder,
    open_repository,
)
from isobench_ray.results import Results, Snapshot
from isobench_ray.schema import sha256_hex, utc_now
from isobench_ray.task_source import LoadedTask, load_tasks, select
from isobench_ray.trial import Trial

_DRIVERS_FILES = ("driver.json", "epochs", "events", "experiment.yaml", "invocations", "run.log")
"""What a start that was killed before it wrote lock.json leaves."""


def resolve_experiment(loaded: LoadedExperiment) -> ResolvedExperiment:
    """Load tasks, ask repositories, collect what agents need.

    Raises:
        UserError: bad input of any kind.
    """
    open_place = open_repositories(loaded)
    tasks = {
        item.task.task_id: _planned_task(loaded, item, open_place) for item in load_tasks(loaded)
    }
    trials: dict[str, PlannedTrial] = {}
    for spec in loaded.experiment.agents:
        place = f"{loaded.path}: agent '{spec.name}': select"
        for task_id in select([planned.task for planned in tasks.values()], spec.select, place):
            for trial in _planned_trials(loaded, spec, tasks[task_id]):
                trials[trial.trial.trial_id] = trial
    if not trials:
        raise UserError(f"{loaded.path}: agents: no agent's `select` leaves it a task")
    return ResolvedExperiment(loaded, tasks, trials)


def open_repositories(loaded: LoadedExperiment) -> Callable[[str], Repository]:
    """Mirrors by URL, from where the experiment says that histories can be had.

    Raises:
        UserError: (when called) the named place does not exist.
    """
    written = loaded.experiment.repositories
    names = {same_repository(url): url for url in written}

    def open_place(url: str) -> Repository:
        name = names.get(same_repository(url), url)
        place = written.get(name)
        if place is not None and "://" not in place:
            path = loaded.resolve(place)
            if not path.exists():
                raise UserError(f"{loaded.path}: repositories.{name}: there is no {path}")
            place = str(path)
        return open_repository(url, place, cache_folder())

    return open_place


def _planned_task(
    loaded: LoadedExperiment, item: LoadedTask, open_place: Callable[[str], Repository]
) -> PlannedTask:
    experiment, task = loaded.experiment, item.task
    repository = open_place(task.repository)
    try:
        resolved = repository.resolve(task)
        resolved = _with_submodules(repository, resolved, experiment.workspace, open_place)
    except FailureRaised as error:
        return PlannedTask(task, item.files, repository, None, error.failure, None)
    except GitError as error:
        words = f"{task.repository} is damaged: {error}"
        failure = Failure(failure_class=FailureClass.REPOSITORY_UNAVAILABLE, message=words)
        return PlannedTask(task, item.files, repository, None, failure, None)
    hashes = {"base_commit": resolved.base_commit, "human_commit": resolved.human_commit}
    task = task.model_copy(update=hashes)
    conditions = measure_conditions(task, item.files, resolved, experiment)
    return PlannedTask(task, item.files, repository, resolved, None, conditions)


def _with_submodules(
    repository: Repository,
    resolved: ResolvedTask,
    settings: WorkspaceSettings,
    open_place: Callable[[str], Repository],
) -> ResolvedTask:
    """The task with its submodules as the experiment wants them.

    Raises:
        FailureRaised: has_submodules or submodule_unavailable.
    """
    if settings.submodules == "refuse" and resolved.submodules:
        paths = ", ".join(submodule.path for submodule in resolved.submodules)
        raise fail(FailureClass.HAS_SUBMODULES, f"base_commit has submodules: {paths}")
    if settings.submodules != "fill":
        return resolved
    trees = resolved.base_tree, resolved.human_tree
    base, human = (repository.fill_submodules(tree, open_place) for tree in trees)
    if (base, human) == trees:
        return resolved
    diff = repository.diff(base, human)
    return resolved._replace(base_tree=base, human_tree=human, human_diff=diff, filled=True)


def _planned_trials(
    loaded: LoadedExperiment, spec: AgentSpec, planned: PlannedTask
) -> list[PlannedTrial]:
    """All attempts of one agent at one task."""
    experiment, task = loaded.experiment, planned.task
    wall_s = min(
        spec.limits.agent_wall_s or experiment.limits.agent_wall_s,
        spec.limits.agent_working_s or experiment.limits.agent_working_s,
    )
    prompt, agent, identity = render_prompt(task, wall_s), None, None
    human_diff = planned.resolved.human_diff if planned.resolved else b""
    agent = AGENTS[spec.kind].load(spec, task, human_diff, _reader(loaded, spec))
    if planned.resolved is not None:
        identity = solve_identity(
            experiment,
            spec,
            AGENTS[spec.kind].version,
            agent,
            planned.resolved.base_tree,
            sha256_hex(prompt.encode()),
            wall_s,
            planned.files.visible_sha256,
        )
    return [
        PlannedTrial(
            Trial(task_id=task.task_id, agent=spec.name, attempt=k, solve_identity=identity),
            spec,
            agent if planned.resolved else None,
            prompt,
            wall_s,
        )
        for k in range(1, experiment.attempts + 1)
    ]


def _reader(loaded: LoadedExperiment, spec: AgentSpec) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            return loaded.resolve(name).read_bytes()
        except OSError as error:
            raise UserError(
                f"{loaded.path}: agent '{spec.name}': cannot read {name}: {error.strerror}"
            ) from error

    return read


def make_lock(resolved: ResolvedExperiment, old: Lock | None, snapshot: Snapshot) -> Lock:
    """The lock of an experiment. Results grow: what an older lock has besides is kept.

    Kept is what was ever started. A trial that was planned, never started, and is no longer in
    the experiment was a mistake that somebody mended.
    """
    experiment = resolved.loaded.experiment
    tasks = {task_id: _locked_task(planned) for task_id, planned in resolved.tasks.items()}
    agents = {
        spec.name: LockedAgent(name=spec.name, kind=spec.kind, version=AGENTS[spec.kind].version)
        for spec in experiment.agents
    }
    trials = {trial_id: planned.trial for trial_id, planned in resolved.trials.items()}
    if old is not None:
        started = {e.key.work_id for e in snapshot.executions if e.key.work == "trial"}
        started |= snapshot.journals.keys()
        kept = {trial.trial_id: trial for trial in old.trials if trial.trial_id in started}
        names = {trial.agent for trial in kept.values()}
        ids = {trial.task_id for trial in kept.values()}
        tasks = {task.task_id: task for task in old.tasks if task.task_id in ids} | tasks
        agents = {agent.name: agent for agent in old.agents if agent.name in names} | agents
        trials = kept | trials
    now = utc_now()
    return Lock(
        name=experiment.name,
        code_version=__version__,
        python=platform.python_version(),
        created_at=old.created_at if old else now,
        updated_at=now,
        analysis=LockedAnalysis(
            margin_ratio=experiment.measure.margin_ratio,
            pilot_blocks=experiment.measure.blocks.pilot,
            max_blocks=experiment.measure.blocks.max,
            enforce=experiment.patch.enforce,
        ),
        experiment=experiment.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        tasks=tuple(tasks[task_id] for task_id in sorted(tasks)),
        agents=tuple(agents[name] for name in sorted(agents)),
        trials=tuple(trials[trial_id] for trial_id in sorted(trials)),
    )


def _locked_task(planned: PlannedTask) -> LockedTask:
    resolved = planned.resolved
    task = planned.task
    return LockedTask(
        task_id=task.task_id,
        repository=task.repository,
        base_commit=task.base_commit,
        human_commit=task.human_commit,
        instruction=task.instruction,
        tags=task.tags,
        workload=task.workload.model_dump(mode="json", exclude_defaults=True),
        check=task.check.model_dump(mode="json", exclude_defaults=True),
        files_sha256=planned.files.sha256,
        target_files=task.target_files,
        protected_paths=task.protected_paths,
        submodules=_locked_submodules(resolved),
        base_tree=resolved.base_tree if resolved else None,
        human_tree=resolved.human_tree if resolved else None,
        human_diff_sha256=sha256_hex(resolved.human_diff) if resolved else None,
        conditions=planned.conditions,
        failure=planned.failure,
    )


def _locked_submodules(resolved: ResolvedTask | None) -> tuple[dict[str, str | None], ...]:
    """Gitlinks as JSON can hold them: a path need not be UTF-8."""
    rows = [submodule._asdict() for submodule in resolved.submodules] if resolved else []
    return tuple(
        {k: v and os.fsencode(v).decode(errors="backslashreplace") for k, v in row.items()}
        for row in rows
    )


def refuse_other_experiment(
    resolved: ResolvedExperiment, results: Results, lock: Lock | None, snapshot: Snapshot
) -> None:
    """Refuse Results of another experiment, and finished work under another identity.

    Raises:
        UserError: with how to go on.
    """
    name = resolved.loaded.experiment.name
    if lock is None:
        strange = [name for name in results.store.names() if not name.startswith(_DRIVERS_FILES)]
        if strange:
            raise UserError(
                f"{results.uri}: not a results folder (it holds {strange[0]} and no lock.json); "
                "name an empty or new folder with --results"
            )
        return
    if lock.name != name:
        raise UserError(
            f"{results.uri}: these are Results of the experiment '{lock.name}', not of '{name}'; "
            "name another folder with --results"
        )
    for trial_id, planned in resolved.trials.items():
        journal, identity = snapshot.journals.get(trial_id), planned.trial.solve_identity
        if journal is not None and identity not in (None, journal.solve_identity):
            raise UserError(
                f"{resolved.loaded.path}: {trial_id} is finished under other conditions (its base, "
                "prompt, agent, limits, patch policy, sandbox or environment changed since); "
                "rename the agent "
                f"'{planned.trial.agent}', or name another folder with --results"
            )
