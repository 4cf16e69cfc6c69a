"""The environment: an interpreter that really starts, and variables that hold nothing else."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from isobench_ray.environment import open_environment
from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import EnvironmentSpec
from isobench_ray.failure import FailureClass


def test_without_a_path_it_is_the_interpreter_that_runs_this():
    found = open_environment(EnvironmentSpec())
    assert found.python == sys.executable
    assert found.version == platform.python_version()
    assert sys.prefix in found.folders
    assert sys.base_prefix in found.folders


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python").symlink_to(sys.executable)
    assert open_environment(EnvironmentSpec(python="python")).python == str(tmp_path / "python")


@pytest.mark.parametrize("python", ["/not/there/python", "/bin/true", "/bin/false", "/tmp"])
def test_what_does_not_run_as_a_python_is_a_failure_with_its_path(python):
    with pytest.raises(FailureRaised) as raised:
        open_environment(EnvironmentSpec(python=python))
    assert raised.value.failure.failure_class is FailureClass.INTERPRETER_MISSING
    assert python in raised.value.failure.message


def test_its_variables_hold_nothing_of_the_harness_and_put_its_python_first(tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_HARNESS", "secret")
    variables = open_environment(EnvironmentSpec()).variables("/scratch/home", "/scratch/tmp")
    assert variables["HOME"] == "/scratch/home"
    assert variables["TMPDIR"] == "/scratch/tmp"
    assert "secret" not in str(variables)
    where = ["/bin/sh", "-c", "command -v python"]
    said = subprocess.run(where, env=variables, capture_output=True, text=True, check=True)
    assert os.path.samefile(said.stdout.strip(), sys.executable)  # noqa: PTH121 - two strings
