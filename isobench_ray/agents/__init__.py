"""Agents: adapters that turn a task in a workspace into changes.

An adapter has two halves. The driver's half (`load`) collects what travels to the worker: files,
or for *prepared* agents the patch itself, and a configuration that is hashed into the trial's
identity. The worker's half (`command`, `read_account`) starts a program in the sandbox and reads
what it left. Prepared agents start no program.
"""

from __future__ import annotations

from isobench_ray.agents.leak_audit import LeakAudit
from isobench_ray.agents.nop import Nop
from isobench_ray.agents.oracle import Oracle
from isobench_ray.agents.protocol import Account, Agent, AgentInput, AgentPaths, Step
from isobench_ray.agents.scripted import Scripted

__all__ = ["AGENTS", "Account", "Agent", "AgentInput", "AgentPaths", "Step"]

AGENTS: dict[str, Agent] = {
    "leak_audit": LeakAudit(),
    "nop": Nop(),
    "oracle": Oracle(),
    "scripted": Scripted(),
}
"""The adapter of each kind."""
