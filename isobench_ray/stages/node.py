"""What the stages find on a node: environment, sandbox, scratch folder, and the facts about it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

from isobench_ray.base import Base
from isobench_ray.environment import Environment, open_environment
from isobench_ray.experiment import EnvironmentSpec, Limits, SandboxPolicy, WorkspaceSettings
from isobench_ray.failure import FailureClass, fail
from isobench_ray.overlay import why_no_overlay
from isobench_ray.process import boot_id, start_ticks
from isobench_ray.sandbox import Sandbox, open_sandbox
from isobench_ray.trial import WorkerFacts
from isobench_ray.workspace import WorkspaceKind, layer_of, remove_other_layers, remove_tree


class Node(NamedTuple):
    """One worker's share of a node."""

    environment: Environment
    sandbox: Sandbox
    scratch: Path
    """Folder of this worker; removed with it."""
    ledger: Path
    """Folder that lists living children."""
    limits: Limits
    facts: WorkerFacts
    compared_bases: set[str]
    """Trees whose packages were compared with the environment's (stages/installed.py)."""
    workspace_kind: WorkspaceKind = "copy"
    """How workspaces are made here."""

    @property
    def output_limit_bytes(self) -> int:
        """Bytes kept of each output stream."""
        return int(self.limits.output_mb * 1_000_000)


def open_node(
    environment: EnvironmentSpec,
    sandbox: SandboxPolicy,
    limits: Limits,
    scratch: Path,
    gpus: tuple[str, ...] = (),
    workspace: WorkspaceSettings | None = None,
) -> Node:
    """Find out what this node has.

    Raises:
        FailureRaised: interpreter_missing, sandbox_unavailable or overlay_unavailable.
    """
    found = open_environment(environment)
    contained = open_sandbox(sandbox, found)
    scratch.mkdir(parents=True, exist_ok=True)
    return Node(
        environment=found,
        sandbox=contained,
        scratch=scratch,
        ledger=scratch / "processes",
        limits=limits,
        facts=worker_facts(gpus),
        workspace_kind=_workspace_kind(workspace or WorkspaceSettings(), contained, scratch),
        compared_bases=set(),
    )


def _workspace_kind(settings: WorkspaceSettings, sandbox: Sandbox, scratch: Path) -> WorkspaceKind:
    """An overlay only where it can be mounted and the agent cannot see its lower layer.

    Raises:
        FailureRaised: overlay_unavailable, where nothing else is allowed.
    """
    if settings.kind == "copy":
        return "copy"
    hidden = sandbox.facts.mechanism == "bubblewrap"
    why = why_no_overlay(scratch) if hidden else "nothing would hide its lower layer"
    if why is not None and settings.kind == "overlay":
        raise fail(FailureClass.OVERLAY_UNAVAILABLE, f"workspace.kind is overlay: {why}")
    return "copy" if why is not None else "overlay"


def clear_scratch(node: Node, base: Base) -> Path:
    """Clear what the last execution left, but for the ledger and a layer of the same base.

    Returns the new, empty folder for the artifacts of the next one.
    """
    remove_other_layers(base, node.scratch)
    for entry in node.scratch.iterdir():
        if entry not in (node.ledger, layer_of(base, node.scratch)):
            remove_tree(entry)
    artifacts = node.scratch / "artifacts"
    artifacts.mkdir()
    return artifacts


def worker_facts(gpus: tuple[str, ...] = ()) -> WorkerFacts:
    """Facts about this process and its node."""
    ticks = start_ticks(os.getpid())
    assert ticks is not None, "a running process has a start time"
    return WorkerFacts(
        hostname=socket.gethostname(),
        boot_id=boot_id(),
        pid=os.getpid(),
        start_ticks=ticks,
        python=platform.python_version(),
        cpu=_cpu_model(),
        gpus=gpus,
    )


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a bundle of files into a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None
