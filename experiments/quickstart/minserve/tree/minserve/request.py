"""One request: its prompt, its output so far, and how important it is."""


class Request:
    """`arrival` is set by the scheduler; a lower `priority` value goes first."""

    __slots__ = ("arrival", "max_new_tokens", "output_ids", "priority", "prompt_ids", "request_id")

    def __init__(
        self, request_id: str, prompt_ids: list[int], max_new_tokens: int = 16, priority: int = 0
    ) -> None:
        self.request_id = request_id
        self.prompt_ids = prompt_ids
        self.output_ids: list[int] = []
        self.max_new_tokens = max_new_tokens
        self.priority = priority
        self.arrival = -1

    @property
    def token_ids(self) -> list[int]:
        """Prompt and output, as a new list."""
        return self.prompt_ids + self.output_ids

    @property
    def is_finished(self) -> bool:
        return len(self.output_ids) >= self.max_new_tokens

    def append(self, token_id: int) -> None:
        self.output_ids.append(token_id)
