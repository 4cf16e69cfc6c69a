"""Failures as data: every class has somebody to mend it, a policy and advice."""

from __future__ import annotations

import pickle

import pytest

from isobench_ray.errors import FailureRaised, IsobenchError
from isobench_ray.failure import POLICIES, Blame, Failure, FailureClass, Retry, fail


def test_every_class_has_a_policy_and_no_policy_lacks_its_class():
    assert set(POLICIES) == set(FailureClass)


@pytest.mark.parametrize("failure_class", FailureClass)
def test_a_policy_blames_somebody_and_advises_something(failure_class):
    policy = POLICIES[failure_class]
    assert policy.blame in Blame
    assert policy.retry in Retry
    assert len(policy.advice.split()) >= 4
    assert not policy.advice.endswith(".")


@pytest.mark.parametrize(
    "failure_class", [c for c in FailureClass if POLICIES[c].retry is Retry.NEVER]
)
def test_what_is_never_repeated_by_itself_is_the_tasks_fault(failure_class):
    assert POLICIES[failure_class].blame is Blame.TASK


def test_advice_on_the_sandbox_names_the_setting_that_goes_without():
    assert "--set sandbox.kind=none" in POLICIES[FailureClass.SANDBOX_UNAVAILABLE].advice


def test_a_failure_is_raised_caught_and_carried_between_processes_whole():
    raised = fail(FailureClass.DISK_FULL, "no space left on device", detail="Traceback ...")
    assert isinstance(raised, IsobenchError)
    arrived = pickle.loads(pickle.dumps(raised))  # noqa: S301 - its own bytes
    assert isinstance(arrived, FailureRaised)
    assert arrived.failure == raised.failure
    assert str(arrived) == "disk_full: no space left on device"


def test_a_failure_reads_back_from_its_record():
    failure = Failure(failure_class=FailureClass.WORKER_DIED, message="killed")
    assert Failure.model_validate_json(failure.to_json()) == failure
    assert failure.policy.retry is Retry.NOW
