"""Backend of a server with OpenAI's completions API, fed with token ids."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from targetsft_jax.evaluation.backends.backend import Sample, Work
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.parallel import preemption

_ATTEMPTS, _FIRST_WAIT = 5, 0.5
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Server:
    """Completes prompts by POST URL/v1/completions.

    Attributes:
        url: address of the server, with or without /v1.
        model: name of the model at the server.
        stop_ids: tokens that end a completion.
        requests: requests at once.
        timeout: seconds per request.
    """

    url: str
    model: str
    stop_ids: Sequence[int]
    requests: int = 16
    timeout: float = 600.0

    @property
    def name(self) -> str:
        """Address of the server, and the model."""
        return f"{self.url}, model {self.model}"

    def complete(
        self, work: Sequence[Work], settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """Draw the samples of every prompt, one request with its own seed each.

        Raises:
            OSError: the server cannot be reached, or refuses the request.
        """
        calls = [
            (item, sample, settings, seed) for item in work for sample in item.samples
        ]
        with ThreadPoolExecutor(self.requests) as pool:
            samples = iter(list(pool.map(lambda call: self._one(*call), calls)))
        return [[next(samples) for _ in item.samples] for item in work]

    def _one(
        self, item: Work, sample: int, settings: SamplingSettings, seed: int
    ) -> Sample:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": item.prompt,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": item.seed(sample, seed),
            "n": 1,
            "stop_token_ids": list(self.stop_ids),
        }
        if settings.top_k:
            body["top_k"] = settings.top_k
        reply = self._post(body)
        try:
            choice = reply["choices"][0]
            text, reason = choice["text"], choice["finish_reason"]
        except (KeyError, IndexError, TypeError):
            raise OSError(
                f"{self.url} answered {json.dumps(reply)[:200]}; expected choices with "
                "text and finish_reason, as of OpenAI's completions API"
            ) from None
        return Sample([], str(text), reason == "stop")

    def _post(self, body: dict[str, Any]) -> Any:
        base = self.url.rstrip("/").removesuffix("/v1")
        request = urllib.request.Request(
            f"{base}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        wait = _FIRST_WAIT
        for attempt in range(_ATTEMPTS):
            preemption.check()
            last = attempt == _ATTEMPTS - 1
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                if last or error.code not in _TRANSIENT:
                    detail = error.read()[:200].decode("utf-8", "replace")
                    raise OSError(
                        f"{self.url} refused a request ({error.code}: {detail}); the "
                        "prompt is a list of token ids, which the server must accept"
                    ) from None
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                if last:
                    raise OSError(
                        f"{self.url} cannot be reached ({error}); start the server, or "
                        "check the address"
                    ) from None
            except ValueError as error:
                raise OSError(f"{self.url} answered no JSON ({error})") from None
            time.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")
