"""leak_audit: takes an agent's place and looks for the answer. Not for experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isobench_ray.agents.protocol import Account, AgentInput, AgentPaths
from isobench_ray.errors import UserError
from isobench_ray.experiment import AgentSpec
from isobench_ray.task import Task

QUESTIONS = "questions.json"


class LeakAudit:
    """Runs the probe; its findings are its trajectory."""

    version = "1"

    def load(
        self, spec: AgentSpec, task: Task, human_diff: bytes, read: Callable[[str], bytes]
    ) -> AgentInput:
        """Refused: stages/leak_audit.py makes its input.

        Raises:
            UserError: always.
        """
        raise UserError("agent kind 'leak_audit' is for the command `audit-workspace` alone")

    def command(self, paths: AgentPaths) -> list[str] | None:
        """The probe, which needs nothing but the standard library and git."""
        probe = f"{paths.harness}/leak_probe.py"
        return [paths.python, "-I", probe, f"{paths.files}/{QUESTIONS}", paths.trajectory]

    def read_account(self, folder: Path) -> Account:
        """Nothing that counts."""
        return Account()
