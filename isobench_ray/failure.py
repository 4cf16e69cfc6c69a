"""Failures: errors that say nothing about the agent, as data.

A patch that is wrong, an agent that runs out of time and a speed-up that is none are Outcomes and
Verdicts. A dead worker, a commit that no repository has and a sandbox that cannot start are
Failures: each has a class, somebody who can mend it (blame), a policy for repeating, and advice.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from isobench_ray.errors import FailureRaised
from isobench_ray.schema import RecordModel


class Blame(StrEnum):
    """Who can mend it."""

    TASK = "task"
    ENVIRONMENT = "environment"
    CREDENTIALS = "credentials"
    INFRASTRUCTURE = "infrastructure"
    USER = "user"
    HARNESS = "harness"


class Retry(StrEnum):
    """When the driver repeats by itself what failed."""

    NEVER = "never"
    NOW = "now"
    NEXT_RUN = "next_run"
    BACKOFF = "backoff"
    OTHER_NODE = "other_node"
    MORE_MEMORY = "more_memory"
    NEW_CREDENTIALS = "new_credentials"


class FailureClass(StrEnum):
    """The kinds of failure that this version tells apart; the table below says what each means."""

    COMMIT_UNKNOWN = "commit_unknown"
    COMMIT_AMBIGUOUS = "commit_ambiguous"
    REPOSITORY_UNAVAILABLE = "repository_unavailable"
    BASE_NOT_PARENT = "base_not_parent"
    HAS_SUBMODULES = "has_submodules"
    SUBMODULE_UNAVAILABLE = "submodule_unavailable"
    OTHER_BUILD_INSTALLED = "other_build_installed"
    SCRATCH_IN_REPOSITORY = "scratch_in_repository"
    OVERLAY_UNAVAILABLE = "overlay_unavailable"
    INTERPRETER_MISSING = "interpreter_missing"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    BASE_CHECK_FAILED = "base_check_failed"
    HUMAN_CHECK_FAILED = "human_check_failed"
    BASE_WORKLOAD_FAILED = "base_workload_failed"
    HUMAN_WORKLOAD_FAILED = "human_workload_failed"
    TREE_MISMATCH = "tree_mismatch"
    DISK_FULL = "disk_full"
    WORKER_DIED = "worker_died"
    DRIVER_DIED = "driver_died"
    STALE_LEASE = "stale_lease"
    HARNESS_ERROR = "harness_error"


class FailurePolicy(NamedTuple):
    """What a class of failure means for planning and for people."""

    blame: Blame
    retry: Retry
    advice: str


POLICIES: dict[FailureClass, FailurePolicy] = {
    FailureClass.COMMIT_UNKNOWN: FailurePolicy(
        Blame.TASK,
        Retry.NEXT_RUN,
        "correct the hash in the task, or name a source that has it under `repositories:`",
    ),
    FailureClass.COMMIT_AMBIGUOUS: FailurePolicy(
        Blame.TASK, Retry.NEXT_RUN, "write more digits of the hash in the task"
    ),
    FailureClass.REPOSITORY_UNAVAILABLE: FailurePolicy(
        Blame.INFRASTRUCTURE,
        Retry.NEXT_RUN,
        "check the address and the network, or name a local copy under `repositories:`",
    ),
    FailureClass.BASE_NOT_PARENT: FailurePolicy(
        Blame.TASK, Retry.NEXT_RUN, "set base_commit to a parent of human_commit"
    ),
    FailureClass.HAS_SUBMODULES: FailurePolicy(
        Blame.USER,
        Retry.NEXT_RUN,
        "set workspace.submodules to fill (their files are fetched) or empty",
    ),
    FailureClass.SUBMODULE_UNAVAILABLE: FailurePolicy(
        Blame.INFRASTRUCTURE,
        Retry.NEXT_RUN,
        "name a local copy of the submodule's repository under `repositories:`, or set "
        "workspace.submodules to empty",
    ),
    FailureClass.OTHER_BUILD_INSTALLED: FailurePolicy(
        Blame.ENVIRONMENT,
        Retry.NEXT_RUN,
        "uninstall that package from environment.python, or install the build of base_commit",
    ),
    FailureClass.SCRATCH_IN_REPOSITORY: FailurePolicy(
        Blame.USER, Retry.NEXT_RUN, "set TMPDIR on the node to a folder outside any repository"
    ),
    FailureClass.OVERLAY_UNAVAILABLE: FailurePolicy(
        Blame.USER, Retry.NEXT_RUN, "set workspace.kind to auto or copy"
    ),
    FailureClass.INTERPRETER_MISSING: FailurePolicy(
        Blame.ENVIRONMENT, Retry.NEXT_RUN, "set environment.python to an interpreter on the node"
    ),
    FailureClass.SANDBOX_UNAVAILABLE: FailurePolicy(
        Blame.ENVIRONMENT,
        Retry.NEXT_RUN,
        "install bubblewrap and allow user namespaces; for trusted agents only: "
        "--set sandbox.kind=none",
    ),
    FailureClass.BASE_CHECK_FAILED: FailurePolicy(
        Blame.TASK, Retry.NEVER, "the check must pass on base_commit: mend the task's check"
    ),
    FailureClass.HUMAN_CHECK_FAILED: FailurePolicy(
        Blame.TASK, Retry.NEVER, "the check must pass on human_commit: mend the task's check"
    ),
    FailureClass.BASE_WORKLOAD_FAILED: FailurePolicy(
        Blame.TASK, Retry.NEVER, "the workload must yield its metrics on base_commit"
    ),
    FailureClass.HUMAN_WORKLOAD_FAILED: FailurePolicy(
        Blame.TASK, Retry.NEVER, "the workload must yield its metrics on human_commit"
    ),
    FailureClass.TREE_MISMATCH: FailurePolicy(
        Blame.HARNESS, Retry.NEXT_RUN, "report it with the execution's folder"
    ),
    FailureClass.DISK_FULL: FailurePolicy(
        Blame.INFRASTRUCTURE, Retry.NEXT_RUN, "free space on the node, then run again"
    ),
    FailureClass.WORKER_DIED: FailurePolicy(
        Blame.INFRASTRUCTURE, Retry.NOW, "see the node's log; memory is the usual reason"
    ),
    FailureClass.DRIVER_DIED: FailurePolicy(
        Blame.INFRASTRUCTURE, Retry.NOW, "nothing to do: the execution is repeated"
    ),
    FailureClass.STALE_LEASE: FailurePolicy(
        Blame.INFRASTRUCTURE, Retry.NEXT_RUN, "another driver took over; look at its run"
    ),
    FailureClass.HARNESS_ERROR: FailurePolicy(
        Blame.HARNESS, Retry.NEXT_RUN, "report it with the traceback in the record"
    ),
}

MAX_EXECUTIONS_PER_RUN = 3
"""How often one invocation of `run` starts the same work when its failures ask for `now`."""


class Failure(RecordModel):
    """One failure, as it is stored and counted."""

    failure_class: FailureClass
    """What kind of failure it is."""
    message: str
    """What happened, with the words of the program that said so."""
    detail: str | None = None
    """Traceback or log excerpt, where there is one."""

    @property
    def policy(self) -> FailurePolicy:
        """Blame, retry policy and advice of this class."""
        return POLICIES[self.failure_class]


def fail(failure_class: FailureClass, message: str, detail: str | None = None) -> FailureRaised:
    """Make the exception that carries a new Failure, for the caller to raise."""
    return FailureRaised(Failure(failure_class=failure_class, message=message, detail=detail))
