"""The engine: requests in, streams of reasoning and content out. The model is a toy."""

from minserve.block_pool import BlockPool, OutOfBlocks
from minserve.detokenizer import IncrementalDetokenizer
from minserve.loop import Loop, Pause, Queue
from minserve.reasoning import ReasoningParser
from minserve.request import Request
from minserve.sampling import SamplingParams, sample
from minserve.scheduler import Scheduler
from minserve.streams import merge
from minserve.tokenizer import Tokenizer


class ToyModel:
    """Logits that depend on the last token and the position, and on nothing else."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def logits(self, token_ids: list[int]) -> list[float]:
        state = token_ids[-1] * 2654435761 + len(token_ids)
        values = []
        for _ in range(self._vocab_size):
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            values.append(state / 0x08000000)
        return values


class Engine:
    """Runs requests step by step. `uniforms` is an iterator of numbers in [0, 1)."""

    def __init__(self, uniforms, params: SamplingParams, num_blocks: int = 256) -> None:
        self._tokenizer = Tokenizer()
        self._model = ToyModel(self._tokenizer.vocab_size)
        self._scheduler = Scheduler(max_running=8, max_cached_tokens=16 * num_blocks)
        self._pool = BlockPool(num_blocks, block_size=16)
        self._uniforms = uniforms
        self._params = params
        self._queues: dict[str, Queue] = {}
        self._texts: dict[str, tuple[IncrementalDetokenizer, ReasoningParser]] = {}
        self._blocks: dict[str, list[int]] = {}

    def add(self, request_id: str, prompt: str, max_new_tokens: int = 16) -> Queue:
        """A stream of (reasoning, content) deltas of the new request."""
        prompt_ids = self._tokenizer.encode(prompt)
        if not prompt_ids:
            raise ValueError("empty prompt")
        self._scheduler.add(Request(request_id, prompt_ids, max_new_tokens))
        self._queues[request_id] = Queue()
        self._texts[request_id] = (IncrementalDetokenizer(self._tokenizer), ReasoningParser())
        return self._queues[request_id]

    def step(self) -> bool:
        """One token for each scheduled request; False when there was nothing to do."""
        batch = self._scheduler.schedule()
        for request in batch:
            if request.request_id not in self._blocks:
                try:
                    self._blocks[request.request_id] = self._pool.allocate(request.prompt_ids)
                except OutOfBlocks:
                    continue
            logits = self._model.logits(request.token_ids)
            token_id = sample(logits, self._params, next(self._uniforms))
            request.append(token_id)
            self._emit(request, token_id)
            if request.is_finished:
                self._end(request)
        return bool(batch)

    def _emit(self, request: Request, token_id: int) -> None:
        detokenizer, parser = self._texts[request.request_id]
        delta = detokenizer.append(token_id)
        if delta:
            self._queues[request.request_id].put(parser.feed(delta))

    def _end(self, request: Request) -> None:
        detokenizer, parser = self._texts.pop(request.request_id)
        queue = self._queues.pop(request.request_id)
        queue.put(parser.feed(detokenizer.finish()))
        queue.put(parser.finish())
        queue.close()
        self._pool.free(self._blocks.pop(request.request_id))
        self._scheduler.finish(request)


def generate(engine: Engine, prompts: list[str], max_new_tokens: int = 16) -> list[str]:
    """The contents for all prompts, run together."""
    loop = Loop()
    streams = [
        engine.add(str(number), prompt, max_new_tokens) for number, prompt in enumerate(prompts)
    ]

    async def drive() -> None:
        while engine.step():
            await Pause()

    async def collect() -> list[str]:
        loop.spawn(drive())
        contents = [""] * len(streams)
        async for index, (_, content) in merge(loop, streams):
            contents[index] += content
        return contents

    return loop.run(collect())
