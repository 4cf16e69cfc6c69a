"""scripted: runs a list of steps as a real process in the sandbox; for tests and demonstrations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isobench_ray.agents.protocol import Account, AgentInput, AgentPaths, Step
from isobench_ray.errors import UserError
from isobench_ray.experiment import AgentSpec
from isobench_ray.schema import sha256_hex
from isobench_ray.task import Task
from isobench_ray.trial import Usage


class Scripted:
    """Follows `steps` of its spec."""

    version = "1"

    def load(
        self, spec: AgentSpec, task: Task, human_diff: bytes, read: Callable[[str], bytes]
    ) -> AgentInput:
        """The steps for this task, with the patch files that they name."""
        steps = spec.steps.get(task.task_id) if isinstance(spec.steps, dict) else spec.steps
        if steps is None:
            raise UserError(
                f"agent '{spec.name}': steps: none for task '{task.task_id}'; "
                "add them, or leave the task out with the agent's `select`"
            )
        files: dict[str, bytes] = {}
        script = []
        for number, step in enumerate(steps):
            plain = step.model_dump(exclude_none=True)
            for kind in ("apply", "submit"):
                if kind in plain:
                    files[f"{number}.patch"] = read(plain[kind])
                    plain[kind] = f"{number}.patch"
            script.append(plain)
        hashes = {name: sha256_hex(content) for name, content in files.items()}
        files["steps.json"] = json.dumps(script).encode()
        return AgentInput(config={"steps": script, "files": hashes}, files=files, patch=None)

    def command(self, paths: AgentPaths) -> list[str] | None:
        """The runner, which needs nothing but the standard library and git."""
        runner = f"{paths.harness}/scripted_runner.py"
        return [paths.python, "-I", runner, paths.files, paths.trajectory, paths.submission]

    def read_account(self, folder: Path) -> Account:
        """Steps from the runner's trajectory; it may be absent or cut off after a kill."""
        path = folder / "trajectory.json"
        if not path.exists():
            return Account()
        text = path.read_text(errors="replace")
        steps: list[Step] = []
        for line in text.splitlines():
            try:
                row = json.loads(line.strip().rstrip(",").lstrip("["))
                steps.append(_step(len(steps), row))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # the closing bracket, a line cut off by a kill, or the agent's own doing
        return Account(Usage(steps=len(steps)), tuple(steps))


def _step(index: int, row: dict[str, Any]) -> Step:
    """One line of the runner's trajectory.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    return Step(
        index=index,
        time_s=row["time_s"],
        tool=row["tool"],
        arguments=row["arguments"][:500],
        exit=row["exit"],
    )
