"""Table of the commands: names and help."""

COMMANDS = {
    "train": "Train one model with one method.",
    "compare": "Train several methods side by side and print their scores.",
    "evaluate": "Evaluate a model on benchmarks; print scores with intervals.",
    "generate": "Complete prompts with a model, or chat with it.",
    "datasets": "List and build catalogued data sets; preview the rows of a run.",
    "critical_tokens": "Mine the critical tokens of a model's own correct answers.",
    "teacher_cache": "Store a teacher's distributions, to train without the teacher.",
    "inspect": "Show what each method teaches on your rows, as one HTML page.",
    "plan": "Compile a run's step for absent devices; report memory and traffic.",
    "jobset": "Print a JobSet that trains on TPU or GPU nodes of Kubernetes.",
    "convert": "Convert checkpoints to Hugging Face folders, and back.",
    "push": "Upload an exported model or adapters to the Hugging Face hub.",
    "report": "Plot the metrics of runs and print a table.",
    "configs": "List or copy the shipped configurations.",
    "env": "Print versions and devices for a bug report.",
    "completion": "Print a completion script for bash, zsh or fish.",
}
"""Command -> help; each is a module with `main(arguments) -> exit code`."""
