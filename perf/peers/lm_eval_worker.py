"""Worker: lm-eval scores a model that this package samples.

python lm_eval_worker.py SETTINGS    # a JSON object
"""

import json
import sys
from collections import defaultdict
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.api.model import LM

from targetsft_jax.evaluation.backends import Work
from targetsft_jax.evaluation.backends.sampler import open_sampler
from targetsft_jax.generation.sampling import SamplingSettings


class TargetsftLM(LM):
    """A model of this package, sampled by its own sampler.

    Args:
        path: any path of a model.
        settings: temperature and limits of a completion; `samples` is not read.
        seed: seed of all samples.
    """

    def __init__(self, path: str, settings: SamplingSettings, seed: int) -> None:
        super().__init__()
        self._sampler, self._tokenizer = open_sampler(path)
        self._settings, self._seed, self._path = settings, seed, path

    @property
    def tokenizer_name(self) -> str:
        """Name for their caches."""
        return self._path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Template for their log."""
        return str(self._tokenizer.chat_template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Text of a conversation."""
        return self._tokenizer.apply_chat_template(
            chat_history, add_generation_prompt=add_generation_prompt, tokenize=False
        )

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Complete all requests; the n-th request of a row is its n-th sample.

        The id of the row and the number of the sample determine the key, as in
        `evaluate`.
        """
        numbers: dict[str, int] = defaultdict(int)
        prompts: dict[str, list[int]] = {}
        places = []
        for request in requests:
            name = request.doc["id"]
            places.append((name, numbers[name]))
            numbers[name] += 1
            prompts[name] = self._tokenizer(
                request.args[0], add_special_tokens=False
            ).input_ids
        samples = range(max(numbers.values()))
        works = [Work(name, prompt, samples) for name, prompt in prompts.items()]
        rows = self._sampler.complete(works, self._settings, self._seed)
        texts = {
            work.problem: [
                str(self._tokenizer.decode(sample.tokens, skip_special_tokens=True))
                for sample in row
            ]
            for work, row in zip(works, rows)
        }
        return [texts[name][number] for name, number in places]

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """Raise: tasks of generation only."""
        raise NotImplementedError("expected a task with output_type generate_until")

    loglikelihood_rolling = loglikelihood


def verdicts(doc: dict[str, str], results: list[Any]) -> list[float]:
    """Their exact_match of each sample, with the settings of their gsm8k task."""
    return [
        float(
            exact_match_hf_evaluate(
                predictions=[answer],
                references=[doc["answer"]],
                regexes_to_ignore=[",", r"\$", r"(?s).*#### ", r"\.$"],
                ignore_case=True,
            )["exact_match"]
        )
        for answer in results
    ]


def task(rows: str, samples: int) -> dict[str, Any]:
    """Task of rows with id, prompt and answer; answers as in their gsm8k."""

    def mean(doc: dict[str, str], results: list[Any]) -> dict[str, float]:
        scores = verdicts(doc, results[0])
        return {"exact_match": sum(scores) / len(scores)}

    return {
        "task": "rows",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": rows}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "process_results": mean,
        # The default filter, take_first, would keep one sample of each row.
        "repeats": samples,
        "filter_list": [
            {
                "name": "flexible-extract",
                "filter": [
                    {
                        "function": "regex",
                        "group_select": -1,
                        "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)",
                    },
                    {"function": "take_first_k", "k": samples},
                ],
            }
        ],
        "generation_kwargs": {"until": [], "do_sample": True},
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
            }
        ],
    }


def main() -> None:
    """Print score, standard error and verdicts as a JSON object in the last line."""
    settings = json.loads(sys.argv[1])
    sampling = SamplingSettings(
        samples=1,
        max_new_tokens=settings["max_new_tokens"],
        temperature=settings["temperature"],
    )
    model = TargetsftLM(settings["model"], sampling, settings["seed"])
    output: Any = simple_evaluate(
        model=model,
        tasks=[task(settings["rows"], settings["samples"])],
        apply_chat_template=True,
        log_samples=True,
        bootstrap_iters=0,
    )
    scores = output["results"]["rows"]
    result = {
        "score": 100 * scores["exact_match,flexible-extract"],
        "verdicts": {
            sample["doc"]["id"]: verdicts(sample["doc"], sample["filtered_resps"][0])
            for sample in output["samples"]["rows"]
        },
        "texts": {
            sample["doc"]["id"]: sample["resps"][0]
            for sample in output["samples"]["rows"]
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
