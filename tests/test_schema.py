"""The rules of models, canonical JSON, and the identities that decide what runs again."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import isobench_ray
from isobench_ray.cluster.lease import DriverRecord
from isobench_ray.experiment import (
    AgentSpec,
    BlockCounts,
    EnvironmentSpec,
    Limits,
    MeasureSettings,
    Resources,
)
from isobench_ray.lock import Lock
from isobench_ray.planning import admission_plan, measure_conditions
from isobench_ray.reporting.content import Report
from isobench_ray.schema import (
    RECORD_SCHEMA_VERSION,
    RecordModel,
    UserModel,
    canonical_json,
    identity_hash,
)
from isobench_ray.session import ArmPlan, SessionRecord, session_plan
from isobench_ray.trial import ExecutionClaim, ExecutionEnd, TrialRecord
from tests.builders import (
    base_tree,
    experiment,
    hex_id,
    human_tree,
    journal,
    patch,
    resolved_experiment,
    scripted,
    task_row,
)

GOLDEN_NOP = "d8cb968d25f94aac3fdbfac9238b1d15403a84778feb0125c0a36e8d304ec8ec"
GOLDEN_SCRIPTED = "4c7075fa65c3117b5270c2ab3aaad3ed96888194b5b177d863ef24b2e4b7dea7"
GOLDEN_CONDITIONS = "73e9f53869ea11622b59de0fa11437337f6160094bb79e0d8c6dd8eb2f28fa30"
GOLDEN_ADMISSION = "73f7a8e9898752e69594529c981650a2491150e50737f442077188eae1437a53"
GOLDEN_SESSION = "dfdb4ac30f7228f53f4e0184300401227e446ae93cef1511bb1d6495e22c644c"

TOP_LEVEL_RECORDS = (
    TrialRecord, SessionRecord, ExecutionClaim, ExecutionEnd, Lock, DriverRecord, Report,
)  # fmt: skip


def _models() -> list[type[RecordModel] | type[UserModel]]:
    """Every model of the package, from every one of its modules."""
    for module in pkgutil.walk_packages(isobench_ray.__path__, "isobench_ray."):
        if ".runners." not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)  # noqa: TID251 - the test walks the package
    found, waiting = [], [RecordModel, UserModel]
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        if model.__module__.startswith("isobench_ray.") and model not in (RecordModel, UserModel):
            found.append(model)
    return sorted(found, key=lambda m: f"{m.__module__}.{m.__name__}")


def test_canonical_json_is_sorted_dense_utf8():
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'.encode()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_has_no_word_for(number):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": number})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text("abcd", min_size=1), JSON, max_size=5))
def test_canonical_json_depends_on_the_value_not_on_the_order_and_reads_back(value):
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value


def test_a_field_at_its_default_takes_no_part_in_an_identity():
    explicit = MeasureSettings(margin_ratio=0.05, blocks=BlockCounts(pilot=7, max=15))
    assert identity_hash({"s": explicit}) == identity_hash({"s": MeasureSettings()})
    assert identity_hash({"s": MeasureSettings(margin_ratio=0.06)}) != identity_hash(
        {"s": MeasureSettings()}
    )
    nested = {"list": [explicit], "dict": {"inner": (MeasureSettings(),)}}
    assert identity_hash(nested) == identity_hash({"list": [{}], "dict": {"inner": [{}]}})


def test_every_persisted_or_written_field_has_a_sentence():
    silent = [
        f"{model.__name__}.{name}"
        for model in _models()
        for name, field in model.model_fields.items()
        if not (field.description or "").strip().endswith((".", ".)"))
    ]
    assert len(_models()) > 40
    assert silent == []


def test_a_field_without_a_sentence_would_be_seen():
    """Positive control of the test above."""

    class Silent(RecordModel):
        spoken: int = 0
        """It has one."""
        silent: int = 0

    fields = Silent.model_fields
    assert fields["spoken"].description == "It has one."
    assert fields["silent"].description is None


@pytest.mark.parametrize("model", TOP_LEVEL_RECORDS, ids=lambda m: m.__name__)
def test_a_record_with_a_file_of_its_own_says_its_schema_version(model):
    assert model.model_fields["schema_version"].default == RECORD_SCHEMA_VERSION


def test_models_are_frozen_records_forgive_unknown_keys_and_user_files_forbid_them():
    for model in _models():
        expected = "ignore" if issubclass(model, RecordModel) else "forbid"
        assert model.model_config["extra"] == expected, model
        assert model.model_config["frozen"], model


def test_a_record_of_a_newer_version_is_read_without_what_is_new():
    old = journal("t1/nop/attempt-1", patch(hex_id("x")))
    newer = json.loads(old.to_json()) | {"invented_later": 1}
    newer["usage"]["invented_later"] = {"deep": True}
    assert TrialRecord.model_validate_json(json.dumps(newer)) == old


def test_an_unknown_key_in_a_users_file_is_an_error():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Limits.model_validate({"check_s": 1, "chekc_s": 2})


def test_records_read_back_what_they_wrote_and_end_with_a_newline():
    record = journal("t1/nop/attempt-1", patch(None))
    assert record.to_json().endswith(b"}\n")
    assert TrialRecord.model_validate_json(record.to_json()) == record


# Identities. The literals below were computed once; a change of one of them means that finished
# work of older Results runs again, so it needs a reason and a line in the CHANGELOG.


def _solve(row: dict[str, Any] | None = None, agent: str = "nop", **changes: Any) -> str | None:
    resolved = resolved_experiment(row or task_row(), **changes)
    return resolved.trials[f"t1/{agent}/attempt-1"].trial.solve_identity


def _conditions(row: dict[str, Any] | None = None, **changes: Any) -> str | None:
    return resolved_experiment(row or task_row(), **changes).tasks["t1"].conditions


POLICIES: tuple[dict[str, Any], ...] = (
    {"exclude": ["*.log"]},
    {"include": ["*.json"]},
    {"max_file_mb": 1},
    {"max_total_mb": 100},
)
HIGHER = {"x": {"better": "higher", "primary": True}}


def _workload(**changes: Any) -> dict[str, Any]:
    return task_row()["workload"] | changes


def test_golden_solve_identities():
    assert _solve() == GOLDEN_NOP
    assert _solve(agent="fast", agents=scripted("fast")) == GOLDEN_SCRIPTED


def test_golden_measure_conditions_and_session_ids():
    planned = resolved_experiment().tasks["t1"]
    assert planned.conditions == GOLDEN_CONDITIONS
    admission = admission_plan(planned)
    assert admission is not None
    assert admission.identity == GOLDEN_ADMISSION
    controls = {"base": base_tree(), "base2": base_tree(), "human": human_tree()}
    tree = hex_id("fast tree")
    arms = (ArmPlan(name=f"tree-{tree[:12]}", tree=tree, trials=("t1/fast/attempt-1",)),)
    session = session_plan("measure", "t1", "c" * 64, controls, arms)
    assert session.identity == GOLDEN_SESSION
    assert session.session_id == GOLDEN_SESSION[:16]
    assert session.seed == int(GOLDEN_SESSION[:12], 16)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"limits": {"agent_wall_s": 14400, "check_s": 900}}, id="limits as they are"),
        pytest.param({"sandbox": {"kind": "auto", "network": "none"}}, id="sandbox as it is"),
        pytest.param({"environment": {"kind": "host"}}, id="environment as it is"),
        pytest.param({"measure": {"blocks": {"pilot": 7, "max": 15}}}, id="blocks as they are"),
        pytest.param({"measure": {"margin_ratio": 0.05}}, id="margin as it is"),
        pytest.param({"resources": {"solve": {"cpus": 8, "concurrency": 4}}}, id="resources"),
        pytest.param({"resources": {"measure": {"gpus": 1, "gpu_type": "H100"}}}, id="device"),
        pytest.param({"repositories": {"https://x.invalid": "~/src"}}, id="where a history lies"),
        pytest.param({"results": "elsewhere"}, id="where Results lie"),
        pytest.param({"seed": 7, "attempts": 3}, id="order and attempts"),
        pytest.param({"row": task_row(tags=["slow", "new"])}, id="tags"),
        pytest.param({"row": task_row(workload=_workload(kind="command"))}, id="kind as it is"),
        pytest.param({"row": task_row(workload=_workload(passes=9))}, id="passes as they are"),
        pytest.param({"row": task_row(workload=_workload(files="moved/"))}, id="place of files"),
        pytest.param({"row": task_row(target_files=["*.py"])}, id="target files"),
        pytest.param({"row": task_row(protected_paths=["tests/"])}, id="protected paths"),
        pytest.param({"workspace": {"kind": "copy"}}, id="copy"),
        pytest.param({"workspace": {"kind": "overlay"}}, id="overlay"),
        pytest.param({"workspace": {"submodules": "fill"}}, id="submodules, where there are none"),
        pytest.param({"patch": {"enforce": ["target_files"]}}, id="enforced rules"),
        pytest.param({"patch": {"max_file_mb": 20, "exclude": []}}, id="patch as it is"),
    ],
)
def test_what_changes_neither_identity(changes):
    assert _solve(**changes) == GOLDEN_NOP
    assert _conditions(**changes) == GOLDEN_CONDITIONS


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"row": task_row(instruction="It is very slow.")}, id="prompt"),
        pytest.param({"limits": {"agent_working_s": 60}}, id="time limit"),
        pytest.param({"sandbox": {"kind": "none"}}, id="sandbox"),
        pytest.param({"environment": {"python": "/usr/bin/python3"}}, id="environment"),
        pytest.param({"agents": [{"name": "nop", "kind": "oracle"}]}, id="kind of agent"),
        pytest.param({"agents": scripted("nop")}, id="steps"),
        *(pytest.param({"patch": policy}, id=f"patch.{next(iter(policy))}") for policy in POLICIES),
    ],
)
def test_what_changes_a_solve_identity(changes):
    assert _solve(**changes) != GOLDEN_NOP


def test_a_changed_step_of_a_script_changes_its_solve_identity():
    other = [scripted("fast")[0] | {"steps": [{"run": "echo fast "}]}]
    assert _solve(agent="fast", agents=other) != GOLDEN_SCRIPTED


def test_every_policy_of_patches_is_an_identity_of_its_own_whatever_is_enforced():
    enforced = [policy | {"enforce": ["target_files"]} for policy in POLICIES]
    assert [_solve(patch=p) for p in POLICIES] == [_solve(patch=p) for p in enforced]
    assert len({_solve(patch=policy) for policy in POLICIES}) == len(POLICIES)


def test_trees_with_filled_submodules_are_measured_for_themselves():
    exp = experiment()
    planned = resolved_experiment().tasks["t1"]
    own = planned.resolved
    filled = own._replace(human_tree=hex_id("with files in place of a gitlink"), filled=True)
    found = [measure_conditions(planned.task, planned.files, r, exp) for r in (own, filled)]
    assert found[0] == GOLDEN_CONDITIONS
    assert found[1] not in (None, GOLDEN_CONDITIONS)


def test_a_new_name_for_the_same_agent_is_the_same_solve_identity():
    assert _solve(agent="idle", agents=[{"name": "idle", "kind": "nop"}]) == GOLDEN_NOP


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"row": task_row(workload=_workload(command="python b.py"))}, id="workload"),
        pytest.param({"row": task_row(workload=_workload(metrics=HIGHER))}, id="metric"),
        pytest.param({"row": task_row(check={"command": "true"})}, id="check"),
        pytest.param({"files": b"import time\n"}, id="content of files"),
        pytest.param({"measure": {"margin_ratio": 0.06}}, id="margin"),
        pytest.param({"limits": {"check_s": 5}}, id="limit of the check"),
        pytest.param({"measure": {"blocks": {"pilot": 11, "max": 11}}}, id="blocks"),
        pytest.param({"environment": {"python": "/usr/bin/python3"}}, id="environment"),
        pytest.param({"row": task_row(human_commit=hex_id("another"))}, id="human commit"),
    ],
)  # fmt: skip
def test_what_changes_the_measuring_conditions(changes):
    assert _conditions(**changes) != GOLDEN_CONDITIONS


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"row": task_row(instruction="It is very slow.")}, id="prompt"),
        pytest.param({"limits": {"agent_wall_s": 60}}, id="agent's time limit"),
        pytest.param({"agents": scripted("nop")}, id="agents"),
        *(pytest.param({"patch": policy}, id=f"patch.{next(iter(policy))}") for policy in POLICIES),
    ],
)
def test_what_concerns_agents_alone_does_not_change_the_measuring_conditions(changes):
    assert _conditions(**changes) == GOLDEN_CONDITIONS


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"row": task_row(check={"command": "true"})}, id="check"),
        pytest.param({"measure": {"margin_ratio": 0.06}}, id="margin"),
        pytest.param({"limits": {"check_s": 5}}, id="limit of the check"),
    ],
)
def test_what_concerns_measuring_alone_does_not_change_a_solve_identity(changes):
    assert _solve(**changes) == GOLDEN_NOP


def test_a_session_is_named_by_its_set_of_trees_not_by_who_yielded_them_or_when():
    controls = {"base": base_tree(), "base2": base_tree(), "human": human_tree()}
    one, two = (ArmPlan(name=n, tree=hex_id(n), trials=(f"t1/{n}/attempt-1",)) for n in "ab")
    others = tuple(ArmPlan(name=n, tree=hex_id(n), trials=("t1/z/attempt-9",)) for n in "ba")
    first = session_plan("measure", "t1", "c" * 64, controls, (one, two))
    again = session_plan("measure", "t1", "c" * 64, controls, others)
    fewer = session_plan("measure", "t1", "c" * 64, controls, (one,))
    elsewhere = session_plan("measure", "t1", "d" * 64, controls, (one, two))
    assert first.identity == again.identity
    assert len({first.identity, fewer.identity, elsewhere.identity}) == 3


@pytest.mark.parametrize("model", [AgentSpec, EnvironmentSpec, Resources])
def test_user_models_keep_their_fields_sentences_for_the_documentation(model):
    schema = model.model_json_schema()
    assert all(part.get("description") for part in schema["properties"].values())


def test_a_part_that_is_none_does_not_take_part_in_an_identity():
    assert identity_hash({"a": 1, "later": None}) == identity_hash({"a": 1})
    assert identity_hash({"a": 1, "later": 0}) != identity_hash({"a": 1})
