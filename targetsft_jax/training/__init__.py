"""From a config to a trained model: roles, the step, the loop, the run."""
