"""Placement: what the cluster has, whether a worker's shape fits, and its placement group.

Ray never fails an infeasible placement group, it waits for ever; so shapes are compared with the
nodes before anything is asked for, and the nearest feasible shape is named.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from isobench_ray.cluster.schedule import STAGES, Stage
from isobench_ray.errors import IsobenchError, StoppedEarly, UserError
from isobench_ray.experiment import Resources, StageResources

_TOKEN_VARIABLES = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
"""Where none is set, a cluster of our own gets a token that only this user can read."""
_TOKEN_ADVICE = "ray._private.authentication.authentication_token_setup"
"""The logger that advises how to turn token authentication off; nobody here is to follow it."""


class Connection(NamedTuple):
    """The Ray cluster of this run."""

    local: bool
    """Whether it was started for this run, on this machine."""
    nodes: tuple[dict[str, float], ...]
    """Resources of each living node."""


def connect(address: str | None, gpus: int | None) -> Connection:
    """Start Ray on this machine, or attach to the cluster at `address`.

    Raises:
        UserError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {"address": "local", "include_dashboard": False}
        options |= {} if gpus is None else {"num_gpus": gpus}
        if not _TOKEN_VARIABLES & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN_PATH"] = _private_token()
            logging.getLogger(_TOKEN_ADVICE).setLevel(logging.ERROR)
    else:
        _refuse_deaf(address)
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is None:
            raise IsobenchError(f"Ray does not start on this machine: {error}") from error
        raise UserError(f"--address {address}: cannot connect to a Ray cluster: {error}") from error
    return Connection(address is None, living_nodes())


def _refuse_deaf(address: str) -> None:
    """Find out at once that nothing listens at a HOST:PORT; Ray would try for minutes.

    Raises:
        UserError: nothing does.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return  # "auto", or a client address: Ray knows more about these
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers there: {error}") from error


def disconnect() -> None:
    """Leave the cluster; one that was started for this run ends."""
    ray.shutdown()


def living_nodes() -> tuple[dict[str, float], ...]:
    """Resources of each living node."""
    return tuple(
        node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    )


def check_shapes(
    resources: Resources,
    stages: tuple[Stage, ...],
    connection: Connection,
    tell: Callable[[str], None],
) -> None:
    """Make sure that a worker of each stage fits on a node.

    Raises:
        UserError: it does not, on this machine's own cluster.
        StoppedEarly: it did not within `wait_s`, on a cluster that may still grow.
    """
    deadline = time.monotonic() + resources.wait_s
    while True:
        nodes = connection.nodes if connection.local else living_nodes()
        missing = [stage for stage in stages if not _fits(_of(resources, stage), nodes)]
        if not missing:
            return
        stage = missing[0]
        words = (
            f"resources.{stage}: no node has {shape_words(_of(resources, stage))}; "
            f"nearest: {_nearest(nodes)}"
        )
        if connection.local:
            raise UserError(f"{words}; ask for less with --set resources.{stage}.gpus=... or .cpus")
        if time.monotonic() >= deadline:
            raise StoppedEarly(f"{words}; waited {resources.wait_s:g} s (resources.wait_s)")
        tell(f"waiting for the cluster: {words}")
        time.sleep(min(5.0, max(0.1, deadline - time.monotonic())))


def capacities(resources: Resources, connection: Connection) -> tuple[dict[Stage, int], bool]:
    """Most workers of each stage, and whether both pools fit at once."""
    counts: dict[Stage, int] = {}
    for stage in STAGES:
        asked = _of(resources, stage)
        most = sum(_how_many(asked, dict(node)) for node in connection.nodes)
        default = 1 if stage == "measure" and not asked.gpus else most
        counts[stage] = max(1, min(most, asked.concurrency or default))
    rest = [dict(node) for node in connection.nodes]
    together = all(_take(_of(resources, stage), rest) for s in STAGES for stage in [s] * counts[s])
    return counts, together


def reserve(stage_resources: StageResources) -> PlacementGroup:
    """A placement group of one bundle for one worker."""
    group: PlacementGroup = placement_group([bundle(stage_resources)], strategy="STRICT_PACK")
    return group


def bundle(asked: StageResources) -> dict[str, float]:
    """The resources of one worker, in Ray's names."""
    shape: dict[str, float] = {"CPU": asked.cpus}
    if asked.gpus:
        shape["GPU"] = asked.gpus
    if asked.gpu_type:
        shape[f"accelerator_type:{asked.gpu_type}"] = 0.001
    return shape


def shape_words(asked: StageResources) -> str:
    """A worker's shape as people say it."""
    gpu = f", {asked.gpus:g} GPU{f' {asked.gpu_type}' if asked.gpu_type else ''}"
    return f"{asked.cpus:g} CPU{gpu if asked.gpus else ''}"


def _of(resources: Resources, stage: Stage) -> StageResources:
    return resources.solve if stage == "solve" else resources.measure


def _fits(asked: StageResources, nodes: tuple[dict[str, float], ...]) -> bool:
    return any(_how_many(asked, dict(node)) for node in nodes)


def _how_many(asked: StageResources, node: dict[str, float]) -> int:
    shape = bundle(asked)
    return int(min(node.get(name, 0.0) / amount + 1e-9 for name, amount in shape.items()))


def _take(asked: StageResources, nodes: list[dict[str, float]]) -> bool:
    """Take a worker's share off the first node that has it."""
    for node in nodes:
        if _how_many(asked, node):
            for name, amount in bundle(asked).items():
                node[name] -= amount
            return True
    return False


def _nearest(nodes: tuple[dict[str, float], ...]) -> str:
    """The node with most GPUs, then CPUs, in words."""
    best = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    kinds = [name.split(":", 1)[1] for name in best if name.startswith("accelerator_type:")]
    kind = f" {kinds[0]}" if kinds else ""
    return f"{best.get('CPU', 0):g} CPU, {best.get('GPU', 0):g} GPU{kind}"


def _private_token() -> str:
    """Path of a new token file, mode 0600; removed when this process ends.

    Ray's own default is a file in the home folder that everybody can read.
    """
    descriptor, path = tempfile.mkstemp(prefix="isobench-ray-token-")
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    atexit.register(Path(path).unlink, missing_ok=True)
    return path
