"""What an adapter is, and what passes through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from isobench_ray.experiment import AgentSpec
from isobench_ray.schema import RecordModel
from isobench_ray.task import Task
from isobench_ray.trial import Usage


class AgentInput(NamedTuple):
    """What an agent needs for one task: travels with the lease of its own trial, and only there."""

    config: dict[str, Any]
    """All settings that can change what it does; hashed into the solve identity."""
    files: dict[str, bytes]
    """Files that its program finds in a folder of its own."""
    patch: bytes | None
    """For a prepared agent: its patch."""


class AgentPaths(NamedTuple):
    """Where a program finds things, as it sees them."""

    python: str
    """The environment's interpreter."""
    workspace: str
    """The checkout; also the working directory."""
    files: str
    """Folder of `AgentInput.files`."""
    harness: str
    """Folder of the adapters' own scripts."""
    prompt: str
    """The rendered prompt."""
    trajectory: str
    """Where to leave the trajectory."""
    submission: str
    """Where to leave a patch that counts instead of the checkout's state."""


class Step(RecordModel):
    """One line of steps.jsonl: our normalised form of a step."""

    index: int
    """Number of the step, from 0."""
    time_s: float | None = None
    """Seconds from the agent's start to the step's end; null when unknown."""
    tool: str | None = None
    """Name of the tool that was used."""
    arguments: str | None = None
    """Its arguments, shortened."""
    exit: int | None = None
    """Its exit status, where it has one."""
    input_tokens: int | None = None
    """Input tokens of the step's model call; null when unknown."""
    output_tokens: int | None = None
    """Output tokens of the step's model call; null when unknown."""
    cost_usd: float | None = None
    """Its cost; null when unknown."""


class Account(NamedTuple):
    """What an agent's own files say of its work."""

    usage: Usage = Usage()
    steps: tuple[Step, ...] = ()


class Agent(Protocol):
    """An adapter. `command` returns None for prepared agents."""

    version: str

    def load(
        self, spec: AgentSpec, task: Task, human_diff: bytes, read: Callable[[str], bytes]
    ) -> AgentInput:
        """Collect what travels; `read` reads a file named in the experiment.

        Raises:
            UserError: the spec has nothing for this task, or names a missing file.
        """

    def command(self, paths: AgentPaths) -> list[str] | None:
        """The program to start in the sandbox."""

    def read_account(self, folder: Path) -> Account:
        """Read what the program left in the artifact folder; damaged files give what they can."""
