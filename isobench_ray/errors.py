"""The exceptions of isobench-ray, and how the command line ends on each.

    IsobenchError
    |-- UserError          bad input: nothing was written                        exit 2
    |-- StoppedEarly       work is left, the same command goes on with it        exit 3
    |-- RecordError        a stored record does not parse or does not match      exit 4
    `-- FailureRaised      a Failure (data, see failure.py) on its way to a record

Anything else that reaches the command line is an internal error: exit 4, traceback saved.
All of them survive pickling, because they cross process boundaries under Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isobench_ray.failure import Failure


class IsobenchError(Exception):
    """Root of all exceptions that this package raises on purpose."""


class UserError(IsobenchError):
    """The user's input cannot be used; the message names the file, the field and the remedy."""


class StoppedEarly(IsobenchError):
    """The run ended before all planned work had an outcome, and can be resumed."""


class RecordError(IsobenchError):
    """A stored record cannot be read or contradicts its hash."""


class FailureRaised(IsobenchError):
    """Carries a `Failure` from where it was seen to the boundary that records it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return f"{self.failure.failure_class}: {self.failure.message}"
