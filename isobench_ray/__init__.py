"""isobench-ray: coding agents on performance commits, in parallel on Ray, judged by measurement.

The public verbs are those of the command line: `load_experiment`, `plan`, `run`, `open_results`,
`report`. They are resolved on first use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isobench_ray.api import load_experiment, open_results, plan, report, run

__version__ = "0.1.0.dev0"

__all__ = ["__version__", "load_experiment", "open_results", "plan", "report", "run"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from isobench_ray import api  # noqa: PLC0415 - importing the package costs nothing

        return getattr(api, name)
    raise AttributeError(f"module 'isobench_ray' has no attribute {name!r}")
