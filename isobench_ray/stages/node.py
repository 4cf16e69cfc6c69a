"""What the stages find on a node: environment, sandbox, scratch folder, and the facts about it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

from isobench_ray.environment import Environment, open_environment
from isobench_ray.experiment import EnvironmentSpec, Limits, SandboxPolicy
from isobench_ray.process import boot_id, start_ticks
from isobench_ray.sandbox import Sandbox, open_sandbox
from isobench_ray.trial import WorkerFacts


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
) -> Node:
    """Find out what this node has.

    Raises:
        FailureRaised: interpreter_missing or sandbox_unavailable.
    """
    found = open_environment(environment)
    contained = open_sandbox(sandbox, found)
    scratch.mkdir(parents=True, exist_ok=True)
    return Node(found, contained, scratch, scratch / "processes", limits, worker_facts(gpus))


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
