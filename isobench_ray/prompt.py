"""The prompt: what an agent is told, made from the Task alone."""

from __future__ import annotations

from isobench_ray.task import Task

_TEMPLATE = """\
You are in a checkout of a repository. Make the code faster where the report below says it is slow.

{instruction}

How your work is judged:
- The working tree as you leave it is compared with how you found it; there is no need to commit.
- The behaviour must stay the same; this is checked.
- The speed is measured against the code as you found it, on inputs that you do not see.
- You have {minutes} minutes.
"""


def render_prompt(task: Task, agent_wall_s: float) -> str:
    """The prompt for one task; nothing of the human's commit is in it."""
    return _TEMPLATE.format(instruction=task.instruction.strip(), minutes=f"{agent_wall_s / 60:g}")
