"""Runs the steps of a scripted agent: scripted_runner.py FILES_FOLDER TRAJECTORY SUBMISSION.

The working directory is the workspace. The trajectory is a JSON list with one line per step,
written as it grows, so that a kill leaves all whole lines.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Run all steps; the status is that of `exit`, of the first step that failed, or 0."""
    files, trajectory, submission = (Path(argument) for argument in sys.argv[1:])
    start = time.monotonic()
    with trajectory.open("w") as log:
        for number, step in enumerate(json.loads((files / "steps.json").read_text())):
            ((tool, arguments),) = step.items()
            status = run_step(tool, arguments, files, submission)
            row = {
                "tool": tool,
                "arguments": json.dumps(arguments),
                "exit": status,
                "time_s": round(time.monotonic() - start, 3),
            }
            log.write(("[" if number == 0 else ",\n") + json.dumps(row))
            log.flush()
            if tool == "exit" or status != 0:
                break
        else:
            status = 0
        log.write("\n]\n" if log.tell() else "[]\n")
    return status


def run_step(tool: str, arguments: Any, files: Path, submission: Path) -> int:
    """Run one step; 0 if it succeeded."""
    if tool == "sleep_s":
        time.sleep(arguments)
    elif tool == "exit":
        return int(arguments)
    elif tool == "run":
        return subprocess.run(["/bin/sh", "-c", arguments], check=False).returncode
    elif tool == "apply":
        patch = str(files / arguments)
        return subprocess.run(
            ["git", "apply", "--whitespace=nowarn", patch], check=False
        ).returncode
    elif tool == "submit":
        shutil.copyfile(files / arguments, submission)
    elif tool == "write":
        path = Path(arguments["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(arguments["text"])
    elif tool == "edit":
        return edit(Path(arguments["path"]), arguments["find"], arguments["replace"])
    return 0


def edit(path: Path, find: str, replace: str) -> int:
    """Replace the one occurrence of a passage."""
    text = path.read_text()
    if text.count(find) != 1:
        print(f"{path}: the passage occurs {text.count(find)} times, not once", file=sys.stderr)
        return 1
    path.write_text(text.replace(find, replace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
