"""Model provider for inspect-ai (extra `inspect`): our sampler under their tasks.

    inspect eval gsm8k.py --model targetsft/RUN

RUN is any path of a model: a Hugging Face folder or hub id, a run directory or a
checkpoint. Tasks, grading, statistics and viewer are those of inspect-ai; prompts are
rendered by the model's chat template, and each sample of a prompt has a key of its own.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from targetsft_jax.evaluation.backends import Sample, Work
from targetsft_jax.evaluation.backends.sampler import Sampler, open_sampler
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.storage.digest import text_digest

_MAX_TOKENS = 2048
"""Tokens per completion where the task does not set a number."""

_COLLECT_SECONDS = 0.1
"""Time to wait for more requests of a batch."""

_BATCH = 64


@modelapi(name="targetsft")
def targetsft() -> type[ModelAPI]:
    """Register the provider `targetsft`."""
    return TargetsftModel


@dataclass
class _Request:
    work: Work
    settings: SamplingSettings
    seed: int
    result: "asyncio.Future[Sample]"


class TargetsftModel(ModelAPI):
    """A model of this package as a model of inspect-ai.

    Args:
        model_name: path of the model.
        base_url, api_key, config: as in inspect-ai; not read, but for `config`.
        chat_template: name or file in place of the tokenizer's template
            (`-M chat_template=qwen_boxed`).
        dtype: compute dtype.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        chat_template: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        self._sampler: Sampler
        self._sampler, self._tokenizer = open_sampler(model_name, chat_template, dtype)
        self._counts: dict[str, int] = {}
        self._requests: list[_Request] = []
        self._lock = asyncio.Lock()

    def max_connections(self) -> int:
        """Return the number of requests at once: one batch."""
        return _BATCH

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Complete a conversation.

        Raises:
            ValueError: the conversation has tools, or its template refuses it; the task
                sets stop sequences or several choices.
        """
        if config.stop_seqs or (config.num_choices or 1) > 1:
            raise ValueError(
                "targetsft models end at their stop tokens and return one choice; "
                "choose a task without stop_seqs and num_choices (epochs repeat it)"
            )
        if tools:
            raise ValueError("targetsft models have no tools; choose a task without")
        prompt = self._prompt(input)
        name = text_digest(repr(prompt))
        # Epochs repeat a prompt: the n-th request is its n-th sample.
        number = self._counts.get(name, 0)
        self._counts[name] = number + 1
        request = _Request(
            Work(name, prompt, range(number, number + 1)),
            _settings(config),
            config.seed or 0,
            asyncio.get_running_loop().create_future(),
        )
        self._requests.append(request)
        await asyncio.sleep(_COLLECT_SECONDS)
        async with self._lock:
            if not request.result.done():
                await asyncio.to_thread(self._complete, request)
        sample = await request.result
        return self._output(sample, len(prompt))

    def _prompt(self, messages: list[ChatMessage]) -> list[int]:
        from targetsft_jax.data.chat import encode_prompt

        turns = [{"role": str(m.role), "content": m.text} for m in messages]
        return encode_prompt(turns, self._tokenizer).tolist()

    def _complete(self, first: _Request) -> None:
        """Complete all waiting requests of the same settings in one batch."""
        alike = [
            request
            for request in self._requests
            if (request.settings, request.seed, request.work.samples)
            == (first.settings, first.seed, first.work.samples)
        ][:_BATCH]
        self._requests = [r for r in self._requests if r not in alike]
        try:
            rows = self._sampler.complete(
                [request.work for request in alike], first.settings, first.seed
            )
        except Exception as error:
            # Without this, the other requests of the batch would wait forever.
            for request in alike:
                loop = request.result.get_loop()
                loop.call_soon_threadsafe(request.result.set_exception, error)
            return
        for request, (sample,) in zip(alike, rows):
            loop = request.result.get_loop()
            loop.call_soon_threadsafe(request.result.set_result, sample)

    def _output(self, sample: Sample, prompt_tokens: int) -> ModelOutput:
        text = self._tokenizer.decode(sample.tokens, skip_special_tokens=True)
        message = ChatMessageAssistant(
            content=text, model=self.model_name, source="generate"
        )
        reason: Any = "stop" if sample.finished else "max_tokens"
        usage = ModelUsage(
            input_tokens=prompt_tokens,
            output_tokens=len(sample.tokens),
            total_tokens=prompt_tokens + len(sample.tokens),
        )
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=reason)],
            usage=usage,
        )


def _settings(config: GenerateConfig) -> SamplingSettings:
    def value(name: str, default: Any) -> Any:
        found = getattr(config, name)
        return default if found is None else found

    return SamplingSettings(
        samples=1,
        max_new_tokens=value("max_tokens", _MAX_TOKENS),
        temperature=float(value("temperature", 1.0)),
        top_p=float(value("top_p", 1.0)),
        top_k=value("top_k", 0),
    )
