"""Verdicts: every word and its boundary, the order of validities, and what may pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isobench_ray.session import HUMAN, ArmResult, Scoreable, SessionPlan, SessionRecord
from isobench_ray.statistics import Contrast
from isobench_ray.trial import Patch
from isobench_ray.verdict import (
    PathRules,
    Validity,
    Verdict,
    VsBase,
    VsHuman,
    judge_scoreable,
    judge_trial,
    judge_vs_base,
    judge_vs_human,
    legacy_isobench,
    unmeasured_validity,
    with_path_rules,
)
from tests.builders import (
    MARGIN,
    arm_result,
    around,
    base_tree,
    contrast,
    hex_id,
    human_tree,
    patch,
    session_record,
)

LN2 = math.log(2)
TREE = hex_id("agent's tree")
TRIAL = ("t1", "fast", 1)
TRIAL_ID = "t1/fast/attempt-1"


def _session(*arms: ArmResult, margin_ratio: float = 0.05, better: str = "lower") -> SessionRecord:
    controls = (
        arm_result("base", base_tree()),
        arm_result("base2", base_tree()),
        arm_result("human", human_tree(), LN2),
    )
    plan = SessionPlan(
        kind="measure", task_id="t1", session_id="s" * 16, identity="i" * 64, conditions="c" * 64,
        seed=1, arms=(),
    )  # fmt: skip
    all_arms = (*(arm for arm in controls if arm.name not in {a.name for a in arms}), *arms)
    built = session_record(plan.model_copy(update={"arms": all_arms}))
    facts: dict[str, Any] = {"arms": all_arms, "margin_ratio": margin_ratio, "better": better}
    return built.model_copy(update=facts)


def _judge(
    yielded: Patch | None,
    session: SessionRecord | None = None,
    scoreable: Scoreable | None = Scoreable.HEADLINE,
    **more: Any,
) -> Verdict:
    return judge_trial(TRIAL, TRIAL_ID, yielded, session, scoreable, **more)


def _judge_gain(gain: float, **changes: Any) -> Verdict:
    return _judge(patch(TREE), _session(arm_result("tree-x", TREE, gain, **changes)))


# Words


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.002, VsBase.FASTER),
        (1.0, 2.0, VsBase.FASTER),
        (-0.002, -0.001, VsBase.SLOWER),
        (-0.01, 0.01, VsBase.EQUIVALENT),
        (0.0, 0.01, VsBase.EQUIVALENT),
        (-0.01, 0.0, VsBase.EQUIVALENT),
        (-0.01, MARGIN, VsBase.INCONCLUSIVE),
        (-MARGIN, 0.01, VsBase.INCONCLUSIVE),
        (-0.5, 0.5, VsBase.INCONCLUSIVE),
        (0.0, 1.0, VsBase.INCONCLUSIVE),
        (-1.0, 0.0, VsBase.INCONCLUSIVE),
    ],
)
def test_an_interval_against_base_has_one_word(low, high, word):
    assert judge_vs_base(contrast(low, high), 0.05) is word


@pytest.mark.parametrize(
    ("low", "high", "half_low", "word"),
    [
        (MARGIN + 1e-9, 1.0, 1.0, VsHuman.BEATS),
        (MARGIN + 1e-9, 1.0, -1.0, VsHuman.BEATS),
        (MARGIN, 1.0, 0.1, VsHuman.MATCHES),
        (-MARGIN + 1e-9, 0.1, 1e-9, VsHuman.MATCHES),
        (-MARGIN + 1e-9, 0.1, 0.0, VsHuman.INCONCLUSIVE),
        (-MARGIN + 1e-9, 0.1, -0.1, VsHuman.INCONCLUSIVE),
        (-MARGIN, 0.1, 1.0, VsHuman.INCONCLUSIVE),
        (-1.0, -MARGIN, 1.0, VsHuman.INCONCLUSIVE),
        (-1.0, -MARGIN - 1e-9, 1.0, VsHuman.WORSE),
        (-1.0, 1.0, -1.0, VsHuman.INCONCLUSIVE),
    ],
)
def test_an_interval_against_the_human_has_one_word(low, high, half_low, word):
    half = contrast(half_low, half_low + 1.0)
    assert judge_vs_human(contrast(low, high), half, 0.05) is word


@pytest.mark.parametrize(
    ("low", "word"),
    [
        (MARGIN + 1e-9, Scoreable.HEADLINE),
        (MARGIN, Scoreable.SECONDARY),
        (1e-9, Scoreable.SECONDARY),
        (0.0, Scoreable.NOT_SCOREABLE),
        (-0.1, Scoreable.NOT_SCOREABLE),
    ],
)
def test_a_task_is_scoreable_by_the_lower_end_of_the_humans_gain(low, word):
    assert judge_scoreable(contrast(low, low + 1.0), 0.05) is word


def test_the_margin_is_that_of_the_experiment():
    wide = contrast(-0.1, 0.1)
    assert judge_vs_base(wide, 0.05) is VsBase.INCONCLUSIVE
    assert judge_vs_base(wide, 0.2) is VsBase.EQUIVALENT
    assert judge_scoreable(contrast(0.1, 0.3), 0.05) is Scoreable.HEADLINE
    assert judge_scoreable(contrast(0.1, 0.3), 0.2) is Scoreable.SECONDARY


# Whole verdicts


@pytest.mark.parametrize(
    ("gain", "vs_base", "vs_human", "passed"),
    [
        pytest.param(LN2 + 0.2, "faster", "beats", True, id="bigger than the human's"),
        pytest.param(LN2, "faster", "matches", True, id="as big"),
        pytest.param(LN2 - 0.02, "faster", "matches", True, id="a little smaller"),
        pytest.param(LN2 - 0.05, "faster", "inconclusive", False, id="at the margin"),
        pytest.param(LN2 / 4, "faster", "worse", False, id="partial"),
        pytest.param(0.0, "equivalent", "worse", False, id="placebo"),
        pytest.param(-0.3, "slower", "worse", False, id="slow-down"),
    ],
)
def test_what_a_correct_patch_of_a_known_gain_is_called(gain, vs_base, vs_human, passed):
    verdict = _judge_gain(gain)
    assert (verdict.validity, verdict.vs_base, verdict.vs_human) == ("ok", vs_base, vs_human)
    assert verdict.passed is passed
    assert verdict.speedup == pytest.approx(math.exp(gain))
    assert verdict.ratio_to_human == pytest.approx(math.exp(gain - LN2))
    assert verdict.speedup_low < verdict.speedup < verdict.speedup_high


def test_noise_does_not_match_a_human_whose_gain_is_small():
    """Half of the gain must be kept, proven: without that rule an empty patch would match."""
    small = 0.03
    session = _session(
        arm_result("human", human_tree(), small),
        arm_result("tree-x", TREE, 0.0, small, vs_human=around(-small, 0.015)),
    )
    verdict = _judge(patch(TREE), session)
    assert session.arms[-1].vs_human.low > -MARGIN
    assert (verdict.vs_human, verdict.passed) == ("inconclusive", False)


def test_matching_a_human_without_being_proven_faster_than_base_does_not_pass():
    session = _session(arm_result("tree-x", TREE, LN2, vs_base=contrast(-0.1, 1.5)))
    verdict = _judge(patch(TREE), session)
    assert (verdict.vs_base, verdict.vs_human, verdict.passed) == ("inconclusive", "matches", False)


def test_the_humans_own_tree_matches_by_identity_and_is_measured_against_base():
    human = arm_result("human", human_tree(), LN2, trials=(TRIAL_ID,))
    verdict = _judge(patch(human_tree()), _session(human))
    assert (verdict.arm, verdict.same_tree_as) == (HUMAN, HUMAN)
    assert (verdict.vs_base, verdict.vs_human, verdict.passed) == ("faster", "matches", True)
    assert (verdict.ratio_to_human, verdict.ratio_to_human_low) == (1.0, None)


def test_the_humans_own_tree_does_not_pass_where_its_gain_is_not_seen():
    human = arm_result("human", human_tree(), 0.0, trials=(TRIAL_ID,))
    verdict = _judge(patch(human_tree()), _session(human))
    assert (verdict.vs_base, verdict.vs_human, verdict.passed) == ("equivalent", "matches", False)


def test_another_tree_is_not_the_same_as_the_humans():
    assert _judge_gain(LN2).same_tree_as is None


# Validity and its order


@pytest.mark.parametrize(
    ("yielded", "validity"),
    [
        pytest.param(None, Validity.NO_PATCH, id="none"),
        pytest.param(patch(base_tree()), Validity.NO_PATCH, id="the base's own tree"),
        pytest.param(patch(None), Validity.DOES_NOT_APPLY, id="does not apply"),
    ],
)
@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("scoreable", [None, *Scoreable])
def test_some_patches_need_no_session(yielded, validity, measured, scoreable):
    session = _session(arm_result("tree-x", TREE, LN2)) if measured else None
    verdict = _judge(yielded, session, scoreable)
    assert (verdict.validity, verdict.passed, verdict.session_id) == (validity, False, None)
    assert (verdict.vs_base, verdict.vs_human, verdict.speedup) == (None, None, None)
    assert verdict.scoreable is scoreable


def test_the_words_of_git_are_kept():
    assert unmeasured_validity(patch(None)) == (
        Validity.DOES_NOT_APPLY, "error: patch does not apply",
    )  # fmt: skip
    assert unmeasured_validity(patch(TREE)) is None


def test_a_patch_without_a_session_is_not_measured_and_says_why():
    verdict = _judge(patch(TREE), not_measured_reason="base_check_failed: it fails")
    assert (verdict.validity, verdict.reason) == ("not_measured", "base_check_failed: it fails")
    assert not verdict.passed


def test_a_session_without_the_patchs_tree_says_nothing_about_it():
    assert _judge(patch(TREE), _session()).validity is Validity.NOT_MEASURED


@pytest.mark.parametrize(
    ("correct", "scoreable", "validity"),
    [
        (False, Scoreable.HEADLINE, Validity.INCORRECT),
        (False, Scoreable.SECONDARY, Validity.INCORRECT),
        (False, Scoreable.NOT_SCOREABLE, Validity.INCORRECT),
        (True, Scoreable.NOT_SCOREABLE, Validity.NOT_SCOREABLE),
        (True, None, Validity.NOT_MEASURED),
        (True, Scoreable.SECONDARY, Validity.OK),
        (True, Scoreable.HEADLINE, Validity.OK),
    ],
)
def test_the_first_validity_that_holds_is_the_one(correct, scoreable, validity):
    arm = arm_result("tree-x", TREE, LN2, correct=correct)
    verdict = _judge(patch(TREE), _session(arm), scoreable)
    assert verdict.validity is validity
    assert verdict.passed is (validity is Validity.OK)


def test_a_wrong_result_has_no_speed_whatever_it_was():
    arm = arm_result("tree-x", TREE, correct=False, incorrect_reason="block 3: status 1")
    verdict = _judge(patch(TREE), _session(arm))
    assert (verdict.reason, verdict.speedup, verdict.legacy_isobench) == (
        "block 3: status 1", None, None,
    )  # fmt: skip
    assert (verdict.vs_base, verdict.vs_human) == (None, None)


def test_a_task_that_is_not_scoreable_still_shows_what_was_measured():
    arm = arm_result("tree-x", TREE, LN2)
    verdict = _judge(patch(TREE), _session(arm), Scoreable.NOT_SCOREABLE)
    assert (verdict.vs_base, verdict.vs_human, verdict.passed) == ("faster", "matches", False)
    assert "not proven" in (verdict.reason or "")


def test_a_replication_carries_its_number():
    session = _session(arm_result("tree-x", TREE, LN2))
    assert _judge(patch(TREE), session, replication=2).replication == 2


# What a patch may change


def _ruled(
    changed: tuple[str, ...], target: tuple[str, ...] = (), protected: tuple[str, ...] = (),
    enforce: tuple[str, ...] = (), **changes: Any,
) -> Verdict:  # fmt: skip
    """The verdict on a patch as good as the human's that changes these paths."""
    yielded = patch(TREE, files=changed)
    verdict = _judge(yielded, _session(arm_result("tree-x", TREE, LN2, **changes)))
    return with_path_rules(verdict, yielded, PathRules(target, protected, enforce))


@pytest.mark.parametrize(
    ("target", "protected", "violations"),
    [
        ((), (), ()),
        (("src/",), (), ("outside target_files: README.md", "outside target_files: tests/a.py")),
        (("*.py",), (), ("outside target_files: README.md",)),
        (("/a.py", "/tests", "README.md"), (), ("outside target_files: src/a.py",)),
        (("*", "!tests/**"), (), ("outside target_files: tests/a.py",)),
        (("*.md", "src/", "tests/", "!src/a.py"), (), ("outside target_files: src/a.py",)),
        (("# a.py", "*.md", "src"), (), ("outside target_files: tests/a.py",)),
        ((), ("tests/",), ("in protected_paths: tests/a.py",)),
        ((), ("a.py", "!src/a.py"), ("in protected_paths: tests/a.py",)),
        ((), ("**/a.py",), ("in protected_paths: src/a.py", "in protected_paths: tests/a.py")),
        (
            ("src/**",),
            ("*.md", "src/b.py"),
            (
                "outside target_files: README.md",
                "outside target_files: tests/a.py",
                "in protected_paths: README.md",
            ),
        ),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_listed_and_changes_nothing_else(target, protected, violations):
    changed = ("tests/a.py", "src/a.py", "README.md")
    verdict = _ruled(changed, target, protected)
    assert verdict.violations == violations
    assert verdict == _ruled(changed).model_copy(update={"violations": violations})
    assert (verdict.validity, verdict.passed) == (Validity.OK, True)


@pytest.mark.parametrize(
    ("enforce", "reason"),
    [
        ((), None),
        (("target_files",), "outside target_files: b.md"),
        (("protected_paths",), "in protected_paths: c.py"),
        (("protected_paths", "target_files"), "outside target_files: b.md"),
    ],
)
def test_a_rule_that_is_enforced_quarantines_the_patch_that_breaks_it(enforce, reason):
    verdict = _ruled(("a.py", "b.md", "c.py"), ("*.py",), ("c.py",), enforce)
    quarantined = reason is not None
    assert verdict.validity is (Validity.QUARANTINED if quarantined else Validity.OK)
    assert (verdict.passed, verdict.reason) == (not quarantined, reason)
    assert verdict.violations == ("outside target_files: b.md", "in protected_paths: c.py")
    assert (verdict.vs_base, verdict.vs_human) == ("faster", "matches")  # shown all the same


def test_an_enforced_rule_that_nothing_breaks_quarantines_nothing():
    both = ("target_files", "protected_paths")
    assert _ruled(("a.py",), ("*.py",), ("tests/",), both).passed
    assert _ruled(("a.py",), enforce=both).passed
    other = _ruled(("a.py",), ("*.md",), (), ("protected_paths",))
    assert (other.passed, other.violations) == (True, ("outside target_files: a.py",))


def test_quarantine_gives_way_to_every_validity_before_it():
    rules = PathRules(("*.md",), ("*.py",), ("target_files", "protected_paths"))
    yielded = patch(TREE, files=("a.py",))
    broken = ("outside target_files: a.py", "in protected_paths: a.py")
    arm = arm_result("tree-x", TREE, LN2)
    incorrect = arm_result("tree-x", TREE, correct=False, incorrect_reason="wrong answer")
    none, stale = patch(base_tree(), files=()), patch(None, files=())
    cases = [
        (_judge(yielded), yielded, Validity.NOT_MEASURED, broken),
        (_judge(yielded, _session(arm), None), yielded, Validity.NOT_MEASURED, broken),
        (_judge(yielded, _session(incorrect)), yielded, Validity.INCORRECT, broken),
        (
            _judge(yielded, _session(arm), Scoreable.NOT_SCOREABLE),
            yielded,
            Validity.NOT_SCOREABLE,
            broken,
        ),
        (_judge(None), None, Validity.NO_PATCH, ()),
        (_judge(none), none, Validity.NO_PATCH, ()),
        (_judge(stale), stale, Validity.DOES_NOT_APPLY, ()),
        (_judge(yielded, _session(arm)), yielded, Validity.QUARANTINED, broken),  # the control
    ]
    for verdict, own, validity, violations in cases:
        ruled = with_path_rules(verdict, own, rules)
        assert (ruled.validity, ruled.violations) == (validity, violations)
        if validity is not Validity.QUARANTINED:
            assert ruled == verdict.model_copy(update={"violations": violations})


# ISO-Bench's own rule


@pytest.mark.parametrize(
    ("better", "arm_mean", "word"),
    [
        ("lower", 95.0, "beats"),
        ("lower", 95.01, "similar"),
        ("lower", 104.99, "similar"),
        ("lower", 105.0, "worse"),
        ("higher", 105.0, "beats"),
        ("higher", 104.99, "similar"),
        ("higher", 95.01, "similar"),
        ("higher", 95.0, "worse"),
    ],
)
def test_the_published_rule_is_a_band_of_5_percent_of_the_humans_mean(better, arm_mean, word):
    arm = arm_result("tree-x", TREE, mean=arm_mean)
    assert legacy_isobench(arm, arm_result("human", human_tree(), mean=100.0), better) == word


def test_the_published_rule_lets_an_empty_patch_beat_the_human():
    """vLLM 22d33bac as published: 596.3 ms at base, 786.8 ms with the human's change."""
    empty = arm_result("tree-x", TREE, mean=596.3)
    human = arm_result("human", human_tree(), mean=786.8)
    assert legacy_isobench(empty, human, "lower") == "beats"


def test_without_means_the_published_rule_is_silent():
    silent = arm_result("tree-x", TREE, mean=None)
    assert legacy_isobench(silent, arm_result("human", human_tree()), "lower") is None


def test_the_published_rule_stands_beside_ours_and_decides_nothing():
    arm = arm_result("tree-x", TREE, LN2, vs_base=contrast(-1.0, 1.0), mean=1.0)
    verdict = _judge(patch(TREE), _session(arm))
    assert (verdict.legacy_isobench, verdict.passed) == ("beats", False)


# Properties

ENDS = st.floats(-2, 2)


@st.composite
def _contrasts(draw: st.DrawFn) -> Contrast:
    low, high = sorted((draw(ENDS), draw(ENDS)))
    return contrast(low, high)


@given(
    vs_base=_contrasts(),
    vs_human=_contrasts(),
    half=_contrasts(),
    correct=st.booleans(),
    scoreable=st.sampled_from([None, *Scoreable]),
    yielded=st.sampled_from([None, patch(None), patch(base_tree()), patch(TREE)]),
    margin=st.floats(0.01, 0.5),
)
def test_what_passed_is_ok_and_faster_and_beats_or_matches(
    vs_base, vs_human, half, correct, scoreable, yielded, margin
):
    numbers = {"vs_base": vs_base, "vs_human": vs_human, "vs_half_human": half} if correct else {}
    arm = ArmResult(name="tree-x", tree=TREE, trials=(TRIAL_ID,), correct=correct, **numbers)
    verdict = _judge(yielded, _session(arm, margin_ratio=margin), scoreable)
    won = verdict.vs_base == "faster" and verdict.vs_human in ("beats", "matches")
    assert verdict.passed is (verdict.validity is Validity.OK and won)
    if verdict.passed:
        assert correct
        assert scoreable in (Scoreable.HEADLINE, Scoreable.SECONDARY)
        assert vs_base.low > 0
        assert vs_human.low > -math.log1p(margin)


@given(_contrasts(), _contrasts(), st.floats(0.01, 0.5))
def test_a_wider_interval_never_proves_more(vs, half, margin):
    wider = contrast(vs.low - 0.1, vs.high + 0.1)
    if judge_vs_base(vs, margin) is VsBase.INCONCLUSIVE:
        assert judge_vs_base(wider, margin) is VsBase.INCONCLUSIVE
    if judge_vs_human(vs, half, margin) is VsHuman.INCONCLUSIVE:
        assert judge_vs_human(wider, half, margin) is VsHuman.INCONCLUSIVE
    if judge_vs_human(wider, half, margin) is VsHuman.BEATS:
        assert judge_vs_human(vs, half, margin) is VsHuman.BEATS
