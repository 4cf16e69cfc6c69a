"""The sandbox: what a program that we do not trust can see and touch.

Covered with bubblewrap: own user, PID, IPC, UTS, cgroup, mount and network namespaces, no
network, a read-only system, only the named folders besides, an environment that holds nothing but
what is given; the tree dies with the worker. Not covered yet: memory, process and disk limits, a
dropped real uid. With mechanism `none` nothing is covered.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from isobench_ray.environment import Environment
from isobench_ray.experiment import SandboxPolicy
from isobench_ray.failure import FailureClass, fail
from isobench_ray.trial import SandboxFacts

SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = (
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
)


class Mount(NamedTuple):
    """A folder that the program gets."""

    host: Path
    """Where it lies on the node."""
    inside: str
    """Where a sandboxed program finds it."""
    writable: bool = False


class ContainedCommand(NamedTuple):
    """What to start, from where, and with which environment."""

    argv: list[str]
    cwd: Path
    env: dict[str, str]


class Sandbox:
    """One mechanism, found to work on this node."""

    def __init__(self, facts: SandboxFacts, environment: Environment) -> None:
        self.facts = facts
        self._environment = environment

    def path(self, mount: Mount) -> str:
        """Where the program finds a mount."""
        return mount.inside if self.facts.mechanism == "bubblewrap" else str(mount.host)

    def contain(
        self,
        argv: Sequence[str],
        mounts: Sequence[Mount],
        cwd: Mount,
        env: Mapping[str, str],
        gpus: Sequence[str] = (),
    ) -> ContainedCommand:
        """The command that runs `argv` with exactly these mounts, folder and variables."""
        variables = dict(env)
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        if self.facts.mechanism == "none":
            return ContainedCommand(list(argv), cwd.host, variables)
        options = [*_NAMESPACES, *self._system_options(), *_gpu_options(gpus)]
        for mount in mounts:
            options += ["--bind" if mount.writable else "--ro-bind", str(mount.host), mount.inside]
        options += ["--chdir", cwd.inside, "--clearenv"]
        for name, value in variables.items():
            options += ["--setenv", name, value]
        return ContainedCommand(["bwrap", *options, "--", *argv], Path("/"), {"PATH": _HOST_PATH})

    def _system_options(self) -> list[str]:
        options = []
        for folder in SYSTEM_FOLDERS:
            path = Path(folder)
            if path.is_symlink():
                options += ["--symlink", str(path.readlink()), folder]
            elif path.is_dir():
                options += ["--ro-bind", folder, folder]
        for file in SYSTEM_FILES:
            options += ["--ro-bind-try", file, file]
        options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run"]
        for folder in self._environment.folders:
            if not any(folder == s or folder.startswith(f"{s}/") for s in SYSTEM_FOLDERS):
                options += ["--ro-bind", folder, folder]
        return options


def read_untrusted(path: Path, limit_bytes: int) -> bytes | None:
    """Content of a file that a contained program may have left; None if it left none.

    No link is followed, nothing but a regular file is read, and not more than the limit: the
    harness must not be made to read for a program what the program itself cannot.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit_bytes)


_HOST_PATH = "/usr/local/bin:/usr/bin:/bin"
_NAMESPACES = (
    "--unshare-all",
    "--unshare-user",
    "--uid",
    "1000",
    "--gid",
    "1000",
    "--hostname",
    "sandbox",
    "--die-with-parent",
)


def open_sandbox(policy: SandboxPolicy, environment: Environment) -> Sandbox:
    """The sandbox that a policy asks for, tried on this node.

    Raises:
        FailureRaised: sandbox_unavailable; a policy is never weakened in silence.
    """
    if policy.kind == "none":
        return Sandbox(SandboxFacts(mechanism="none", network="open"), environment)
    version = bubblewrap_version()
    facts = SandboxFacts(mechanism="bubblewrap", version=version, network="none")
    return Sandbox(facts, environment)


@cache
def bubblewrap_version() -> str:
    """Version of a bubblewrap that works here.

    Raises:
        FailureRaised: sandbox_unavailable, with the reason.
    """
    program = shutil.which("bwrap", path=_HOST_PATH)
    if program is None:
        raise fail(FailureClass.SANDBOX_UNAVAILABLE, "bubblewrap (bwrap) is not installed")
    probe = [program, *_NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    tried = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode != 0:
        raise fail(
            FailureClass.SANDBOX_UNAVAILABLE,
            f"bubblewrap cannot make its namespaces here: {tried.stderr.strip()}",
        )
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[-1]


def _gpu_options(gpus: Sequence[str]) -> list[str]:
    """The device nodes of NVIDIA's driver, for a program that leases a GPU."""
    if not gpus:
        return []
    nodes = sorted(str(node) for node in Path("/dev").glob("nvidia*"))
    return [option for node in nodes for option in ("--dev-bind", node, node)]
