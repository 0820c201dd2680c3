"""Loss and gradient norm of each step of a Hugging Face trainer, unrounded."""

from typing import Any

from transformers import TrainerCallback


class Recording(TrainerCallback):
    """Callback that records a trainer: the losses it sums, the norms it logs."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.grad_norm: list[float] = []
        self._step = 0.0

    def attach(self, trainer: Any) -> None:
        """Record a trainer from now on.

        The logged loss of older versions has four decimals; `training_step` returns
        the summands of it.
        """
        step = trainer.training_step

        def training_step(*arguments: Any, **named: Any) -> Any:
            loss = step(*arguments, **named)
            self._step += float(loss)
            return loss

        trainer.training_step = training_step
        trainer.add_callback(self)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Close the sum over the micro-batches of a step."""
        self.loss.append(self._step)
        self._step = 0.0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
    ) -> None:
        """Record the logged gradient norm."""
        if "grad_norm" in (logs or {}):
            self.grad_norm.append(float(logs["grad_norm"]))

    def result(self) -> dict[str, list[float]]:
        """Series by name."""
        return {"loss": self.loss, "grad_norm": self.grad_norm}


def settings(case: dict[str, Any], train: dict[str, float], steps: int, rows: int):
    """Keyword arguments of `TrainingArguments` that equal ours."""
    return {
        "max_steps": steps,
        "per_device_train_batch_size": rows // case["accumulation"],
        "gradient_accumulation_steps": case["accumulation"],
        "learning_rate": train["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "adam_beta1": train["beta1"],
        "adam_beta2": train["beta2"],
        "weight_decay": train["weight_decay"],
        "max_grad_norm": train["clip_norm"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
