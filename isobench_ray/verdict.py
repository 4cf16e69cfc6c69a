"""The words of a verdict, and the rule that finds them. Pure functions of contrasts.

The rule (margin delta, all in logarithms): an arm is `faster` when the whole interval against base
is above 0; it `beats` the human when the interval is above +ln(1+delta); it `matches` when the
interval is above -ln(1+delta) and, proven too, at least half of the human's log-gain is kept.
`passed` = ok and faster and (beats or matches). Nothing is decided by a point estimate.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from isobench_ray.path_rules import matching
from isobench_ray.schema import RecordModel
from isobench_ray.session import HUMAN, ArmResult, Scoreable, SessionRecord
from isobench_ray.statistics import Contrast
from isobench_ray.trial import Patch


class Validity(StrEnum):
    """Whether a speed says anything; in order of precedence, the first that holds."""

    NOT_MEASURED = "not_measured"
    NO_PATCH = "no_patch"
    DOES_NOT_APPLY = "does_not_apply"
    NEEDS_REBUILD = "needs_rebuild"
    INCORRECT = "incorrect"
    NOT_SCOREABLE = "not_scoreable"
    QUARANTINED = "quarantined"
    OK = "ok"


class VsBase(StrEnum):
    """An arm against base."""

    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


class VsHuman(StrEnum):
    """An arm against the human's."""

    BEATS = "beats"
    MATCHES = "matches"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"


class Verdict(RecordModel):
    """What a session proves about the patch of one trial."""

    trial_id: str
    """The trial."""
    task_id: str
    """Its task."""
    agent: str
    """Its agent."""
    attempt: int
    """Its attempt."""
    session_id: str | None
    """The session; null when the patch was not measured."""
    replication: int
    """0 for the first completed session, which counts; later ones are replications."""
    arm: str | None
    """The arm of the session that has the patch's tree."""
    validity: Validity
    """Whether the speed says anything."""
    reason: str | None = None
    """Why it does not: git's or the check's words."""
    vs_base: VsBase | None = None
    """Against base; null when not measured."""
    vs_human: VsHuman | None = None
    """Against the human's; null when not measured."""
    same_tree_as: str | None = None
    """`human` when the patch yields exactly the human's tree."""
    passed: bool
    """ok, faster, and beats or matches."""
    scoreable: Scoreable | None = None
    """What the admission decided about the task."""
    speedup: float | None = None
    """Point estimate of the speed-up over base."""
    speedup_low: float | None = None
    """Lower end of its 95 % interval."""
    speedup_high: float | None = None
    """Upper end of its 95 % interval."""
    ratio_to_human: float | None = None
    """Point estimate of the speed relative to the human's; above 1 is faster."""
    ratio_to_human_low: float | None = None
    """Lower end of its 95 % interval."""
    ratio_to_human_high: float | None = None
    """Upper end of its 95 % interval."""
    violations: tuple[str, ...] = ()
    """What the patch changes against the task's rules, such as `outside target_files: a.md`."""
    legacy_isobench: str | None = None
    """ISO-Bench's own rule (one comparison of means with the human's, 5 % band), for comparison."""


def judge_vs_base(contrast: Contrast, margin_ratio: float) -> VsBase:
    """Place the interval against base."""
    margin = math.log1p(margin_ratio)
    if contrast.low > 0:
        return VsBase.FASTER
    if contrast.high < 0:
        return VsBase.SLOWER
    if contrast.low > -margin and contrast.high < margin:
        return VsBase.EQUIVALENT
    return VsBase.INCONCLUSIVE


def judge_vs_human(contrast: Contrast, half: Contrast, margin_ratio: float) -> VsHuman:
    """Place the interval against the human's; `half` is own gain minus half of the human's."""
    margin = math.log1p(margin_ratio)
    if contrast.low > margin:
        return VsHuman.BEATS
    if contrast.high < -margin:
        return VsHuman.WORSE
    if contrast.low > -margin and half.low > 0:
        return VsHuman.MATCHES
    return VsHuman.INCONCLUSIVE


def judge_scoreable(human_vs_base: Contrast, margin_ratio: float) -> Scoreable:
    """Whether the human's gain is proven: above the margin, above 0, or not at all."""
    if human_vs_base.low > math.log1p(margin_ratio):
        return Scoreable.HEADLINE
    return Scoreable.SECONDARY if human_vs_base.low > 0 else Scoreable.NOT_SCOREABLE


class PathRules(NamedTuple):
    """What the patches of a task may change, in .gitignore's syntax."""

    target_files: tuple[str, ...]
    """Where a change belongs; empty: anywhere."""
    protected_paths: tuple[str, ...]
    """What should stay as it is."""
    enforce: tuple[str, ...]
    """Which of the two quarantine a patch that breaks them."""


def with_path_rules(verdict: Verdict, patch: Patch | None, rules: PathRules) -> Verdict:
    """The verdict with the paths that break a rule; quarantined where that is enforced."""
    files = set(patch.files) if patch is not None else set()
    broken = {
        "target_files": files - matching(rules.target_files, files) if rules.target_files else (),
        "protected_paths": matching(rules.protected_paths, files),
    }
    words = {"target_files": "outside target_files", "protected_paths": "in protected_paths"}
    violations = tuple(
        f"{words[k]}: {path}" for k, paths in broken.items() for path in sorted(paths)
    )
    enforced = [name for name, paths in broken.items() if paths and name in rules.enforce]
    update: dict[str, object] = {"violations": violations}
    if enforced and verdict.validity is Validity.OK:
        reason = next(v for v in violations if v.startswith(words[enforced[0]]))
        update |= {"validity": Validity.QUARANTINED, "passed": False, "reason": reason}
    return verdict.model_copy(update=update)


def legacy_isobench(arm: ArmResult, human: ArmResult, better: str) -> str | None:
    """beats, similar or worse by the published rule: percent over the human's mean, 5 % band.

    Source: the published cells of ISO-Bench (arXiv 2602.19594), which this rule reproduces.
    """
    if arm.mean is None or human.mean is None:
        return None
    percent = (human.mean - arm.mean) / human.mean * 100
    if better == "higher":
        percent = -percent
    return "beats" if percent >= 5 else "worse" if percent <= -5 else "similar"


def unmeasured_validity(patch: Patch | None) -> tuple[Validity, str | None] | None:
    """The validity that a patch has without any session, if it has one."""
    if patch is None or patch.tree == patch.base_tree:
        return Validity.NO_PATCH, None
    if patch.tree is None:
        return Validity.DOES_NOT_APPLY, patch.apply_error
    return None


def judge_trial(
    trial: tuple[str, str, int],
    trial_id: str,
    patch: Patch | None,
    session: SessionRecord | None,
    scoreable: Scoreable | None,
    replication: int = 0,
    not_measured_reason: str | None = None,
) -> Verdict:
    """The verdict on one trial (task id, agent, attempt) from one session, or from none."""
    task_id, agent, attempt = trial
    known = unmeasured_validity(patch)
    arm = None
    if session is not None and patch is not None:
        arm = next((a for a in session.arms if a.tree == patch.tree and a.name != "base2"), None)
    if known is not None or session is None or arm is None:
        validity, reason = known or (Validity.NOT_MEASURED, not_measured_reason)
        return Verdict(
            trial_id=trial_id,
            task_id=task_id,
            agent=agent,
            attempt=attempt,
            session_id=None,
            replication=0,
            arm=None,
            validity=validity,
            reason=reason,
            passed=False,
            scoreable=scoreable,
        )
    return _measured(trial, trial_id, session, arm, scoreable, replication)


def _measured(
    trial: tuple[str, str, int],
    trial_id: str,
    session: SessionRecord,
    arm: ArmResult,
    scoreable: Scoreable | None,
    replication: int,
) -> Verdict:
    task_id, agent, attempt = trial
    human = next(a for a in session.arms if a.name == HUMAN)
    is_human = arm.name == HUMAN
    validity, reason = Validity.OK, None
    if scoreable is None:
        validity, reason = Validity.NOT_MEASURED, "the task has no admission session"
    elif not arm.correct:
        validity, reason = Validity.INCORRECT, arm.incorrect_reason
    elif scoreable is Scoreable.NOT_SCOREABLE:
        validity, reason = Validity.NOT_SCOREABLE, "the human's gain is not proven on this machine"
    vs_base = judge_vs_base(arm.vs_base, session.margin_ratio) if arm.vs_base else None
    vs_human = VsHuman.MATCHES if is_human and arm.correct else None
    if arm.vs_human is not None and arm.vs_half_human is not None:
        vs_human = judge_vs_human(arm.vs_human, arm.vs_half_human, session.margin_ratio)
    won = vs_base is VsBase.FASTER and vs_human in (VsHuman.BEATS, VsHuman.MATCHES)
    return Verdict(
        trial_id=trial_id,
        task_id=task_id,
        agent=agent,
        attempt=attempt,
        session_id=session.session_id,
        replication=replication,
        arm=arm.name,
        validity=validity,
        reason=reason,
        vs_base=vs_base,
        vs_human=vs_human,
        same_tree_as=HUMAN if is_human else None,
        passed=validity is Validity.OK and won,
        scoreable=scoreable,
        speedup=_exp(arm.vs_base, "mean"),
        speedup_low=_exp(arm.vs_base, "low"),
        speedup_high=_exp(arm.vs_base, "high"),
        ratio_to_human=1.0 if is_human and arm.correct else _exp(arm.vs_human, "mean"),
        ratio_to_human_low=_exp(arm.vs_human, "low"),
        ratio_to_human_high=_exp(arm.vs_human, "high"),
        legacy_isobench=legacy_isobench(arm, human, session.better) if arm.correct else None,
    )


def _exp(contrast: Contrast | None, field: str) -> float | None:
    return None if contrast is None else math.exp(getattr(contrast, field))
