"""Sessions: arms of one task measured together; what they yield and what is stored of it.

An *admission* session holds only controls (base, base2, human) under a seed of its own and decides
whether the task is scoreable. A *measure* session holds the controls and the distinct trees that
trials yielded. Both leave a SessionRecord, published once.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from isobench_ray.schema import RECORD_SCHEMA_VERSION, RecordModel, identity_hash
from isobench_ray.statistics import Contrast
from isobench_ray.trial import Artifact, SandboxFacts, WorkerFacts

BASE, BASE2, HUMAN = "base", "base2", "human"
CONTROLS = (BASE, BASE2, HUMAN)
MAX_ARMS = 8


def arm_name(tree: str) -> str:
    """Name of an agent's arm: `tree-` and the first 12 digits of its tree id."""
    return f"tree-{tree[:12]}"


class ArmPlan(RecordModel):
    """One arm that a session is to measure."""

    name: str
    """base, base2, human, or tree- and twelve digits."""
    tree: str
    """Git tree id of its sources."""
    trials: tuple[str, ...] = ()
    """Ids of the trials that yielded this tree."""


class SessionPlan(RecordModel):
    """One session to be measured."""

    kind: Literal["admission", "measure"]
    """Which of the two."""
    task_id: str
    """The task."""
    session_id: str
    """First 16 digits of the identity."""
    identity: str
    """Measure identity: kind, conditions and set of trees."""
    conditions: str
    """Hash of workload, check, environment, settings, base tree and human commit."""
    seed: int
    """Seed of orders and inputs; a function of the identity."""
    arms: tuple[ArmPlan, ...]
    """The arms, controls first."""


def session_plan(
    kind: Literal["admission", "measure"],
    task_id: str,
    conditions: str,
    controls: dict[str, str],
    arms: tuple[ArmPlan, ...] = (),
) -> SessionPlan:
    """Plan a session of `controls` (tree by name) and the trees that trials yielded.

    `conditions` is the hash of everything but the set of trees. An arm of trials with the human's
    tree is named `human` and takes the control's place.
    """
    trees = sorted({arm.tree for arm in arms})
    identity = identity_hash({"kind": kind, "conditions": conditions, "trees": trees})
    named = {arm.name: arm for arm in arms}
    control_arms = tuple(
        named.pop(name, ArmPlan(name=name, tree=controls[name])) for name in CONTROLS
    )
    return SessionPlan(
        kind=kind,
        task_id=task_id,
        session_id=identity[:16],
        identity=identity,
        conditions=conditions,
        seed=int(identity[:12], 16),
        arms=control_arms + tuple(sorted(named.values(), key=lambda arm: arm.tree)),
    )


class Sample(RecordModel):
    """One metric of one arm in one block."""

    block: int
    """Number of the block, from 0."""
    arm: str
    """Name of the arm."""
    position: int
    """Place of the arm in the block's random order, from 0."""
    metric: str
    """Name of the metric."""
    value: float
    """Its value; for python workloads the median over the passes."""
    n_passes: int
    """Passes behind the value; 1 for command workloads."""
    passes: tuple[float, ...] = ()
    """The raw passes in the order they ran; empty for command workloads."""
    outside_s: float
    """Seconds that the harness saw from outside for the timed part."""


class CheckResult(RecordModel):
    """What the check said of an arm."""

    arm: str
    """Name of the arm."""
    passed: bool
    """Whether it ended with status 0 in time."""
    reason: str | None = None
    """Why not: the end of its error output, or the limit reached."""
    duration_s: float
    """Seconds it took."""


class ArmResult(RecordModel):
    """What a session says of one arm."""

    name: str
    """Name of the arm."""
    tree: str
    """Git tree id of its sources."""
    trials: tuple[str, ...]
    """Trials that yielded this tree when the session was planned."""
    correct: bool
    """Check passed and workload ran to its end in every block."""
    incorrect_reason: str | None = None
    """Why it is not correct."""
    vs_base: Contrast | None = None
    """Against base; null for base itself and for arms that are not correct."""
    vs_human: Contrast | None = None
    """Against human; null for human itself and for arms that are not correct."""
    vs_half_human: Contrast | None = None
    """Own log-gain minus half of the human's, both over base."""
    median: float | None = None
    """Median of the primary metric over blocks."""
    mean: float | None = None
    """Mean of the primary metric over blocks."""


class Scoreable(StrEnum):
    """Whether a task's human commit gives a yardstick on this machine."""

    HEADLINE = "headline"
    SECONDARY = "secondary"
    NOT_SCOREABLE = "not_scoreable"


class SessionRecord(RecordModel):
    """session.json or admission.json: a session that was measured to its end."""

    schema_version: int = RECORD_SCHEMA_VERSION
    """Version of this record's form."""
    kind: Literal["admission", "measure"]
    """Which of the two."""
    task_id: str
    """The task."""
    session_id: str
    """First 16 digits of the identity."""
    identity: str
    """Measure identity: kind, conditions and set of trees."""
    conditions: str
    """Hash of workload, check, environment, settings, base tree and human commit."""
    execution: int
    """Number of the execution that won."""
    seed: int
    """Seed of orders and inputs."""
    margin_ratio: float
    """The margin delta of its verdicts."""
    metric: str
    """The primary metric."""
    better: Literal["lower", "higher"]
    """Which direction of it is an improvement."""
    n_blocks: int
    """Blocks measured."""
    arms: tuple[ArmResult, ...]
    """What it says of each arm."""
    scoreable: Scoreable | None = None
    """For an admission: what it decides; null for a measure session."""
    admission_id: str | None = None
    """For a measure session: the admission it rests on."""
    checks: tuple[CheckResult, ...]
    """What the check said."""
    samples: tuple[Sample, ...]
    """All samples."""
    sandbox: SandboxFacts
    """How check and workload were contained."""
    worker: WorkerFacts
    """Where it ran."""
    environment_python: str
    """Version of the interpreter that ran check and workload."""
    load_before: float | None = None
    """One-minute load average before the first block."""
    load_after: float | None = None
    """One-minute load average after the last block."""
    started_at: datetime
    """Start of the execution."""
    ended_at: datetime
    """End of the execution."""
    duration_s: float
    """Seconds it took (monotonic)."""
    artifacts: tuple[Artifact, ...] = ()
    """Every file of the winning execution, with hash and size."""
