"""Worker: inspect-ai scores a model through our provider, with its own grader.

python inspect_worker.py SETTINGS    # a JSON object
"""

import json
import sys
import tempfile
from typing import Any

from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import math
from inspect_ai.solver import generate


def main() -> None:
    """Print score and verdicts as a JSON object in the last line."""
    settings = json.loads(sys.argv[1])

    def sample(row: dict[str, Any]) -> Sample:
        return Sample(id=row["id"], input=row["prompt"], target=row["answer"])

    with tempfile.TemporaryDirectory() as folder:
        (log,) = eval(
            Task(
                dataset=json_dataset(settings["rows"], sample),
                solver=generate(),
                scorer=math(),
                epochs=Epochs(settings["samples"], "mean"),
                config=GenerateConfig(
                    max_tokens=settings["max_new_tokens"],
                    temperature=settings["temperature"],
                    seed=settings["seed"],
                ),
            ),
            model=f"targetsft/{settings['model']}",
            log_dir=folder,
            display="none",
        )
        # The samples are read from the folder.
        if log.status != "success":
            sys.exit(f"inspect-ai: {log.status}: {log.error}")
        metrics = log.results.scores[0].metrics
        result = {
            "score": 100 * next(iter(metrics.values())).value,
            "truncated": sum(
                sample.output.stop_reason == "max_tokens" for sample in log.samples
            ),
            "count": len(log.samples),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
