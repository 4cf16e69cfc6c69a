"""Picking the next token: temperature, then top-k, then top-p, then one draw."""

import math


class SamplingParams:
    """`temperature` 0 is greedy; `top_k` 0 keeps all tokens; `top_p` 1 keeps what top-k kept."""

    __slots__ = ("temperature", "top_k", "top_p")

    def __init__(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> None:
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
            raise ValueError("temperature and top_k must be >= 0, top_p in (0, 1]")
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p


def candidates(logits: list[float], params: SamplingParams) -> list[tuple[int, float]]:
    """Tokens that may be drawn with their probabilities, most likely first.

    Equal logits are ordered by token id. Top-p keeps the shortest head whose probability, after
    top-k, reaches `top_p`. The probabilities returned add up to 1.
    """
    order = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)
    top = logits[order[0]]
    weights = [math.exp((logits[token_id] - top) / params.temperature) for token_id in order]
    if params.top_k:
        order = order[: params.top_k]
        weights = weights[: params.top_k]
    needed = params.top_p * sum(weights) if params.top_p < 1 else math.inf
    kept = 0
    mass = 0.0
    while kept < len(weights) and (kept == 0 or mass < needed):
        mass += weights[kept]
        kept += 1
    return [(order[rank], weights[rank] / mass) for rank in range(kept)]


def sample(logits: list[float], params: SamplingParams, uniform: float) -> int:
    """The token that `uniform`, a number in [0, 1), falls on."""
    if params.temperature == 0:
        return max(range(len(logits)), key=logits.__getitem__)
    reached = 0.0
    token_id = -1
    for token_id, probability in candidates(logits, params):
        reached += probability
        if uniform < reached:
            break
    return token_id
