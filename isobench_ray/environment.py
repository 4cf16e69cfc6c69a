"""The environment that agents, checks and workloads run in: here, an interpreter of the node.

Asks the interpreter once for its version and for the folders that a sandbox must show. Virtual
environments built for a commit, and containers, come with a later release.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from isobench_ray.experiment import EnvironmentSpec
from isobench_ray.failure import FailureClass, fail


class Environment(NamedTuple):
    """An interpreter that exists on this node."""

    python: str
    """Absolute path of the interpreter."""
    version: str
    """Its version, such as 3.11.7."""
    folders: tuple[str, ...]
    """Folders that it needs to run."""

    def variables(self, home: str, temporary: str) -> dict[str, str]:
        """The allow-listed variables of every process that we start for a task."""
        return {
            "PATH": f"{Path(self.python).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": home,
            "TMPDIR": temporary,
            "XDG_CACHE_HOME": f"{home}/.cache",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "CUDA_VISIBLE_DEVICES": "",
        }


def open_environment(spec: EnvironmentSpec) -> Environment:
    """Find the interpreter of a spec on this node.

    Raises:
        FailureRaised: interpreter_missing, when it does not start.
    """
    python = str(Path(spec.python or sys.executable).absolute())
    question = (
        "import json,platform,sys;"
        "print(json.dumps([platform.python_version(),sys.prefix,sys.base_prefix,sys.exec_prefix]))"
    )
    try:
        answer = subprocess.run(
            [python, "-I", "-c", question], capture_output=True, timeout=60, check=True
        )
        version, *folders = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise fail(
            FailureClass.INTERPRETER_MISSING, f"{python} does not run as a Python: {error}"
        ) from error
    folders.append(str(Path(python).resolve().parent.parent))
    return Environment(python, version, tuple(dict.fromkeys(folders)))
