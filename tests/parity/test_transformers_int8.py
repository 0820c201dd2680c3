"""Int8 models against transformers in float64, whose layers round as int8 does.

Their weights are the dequantised ones, and a hook rounds the input of every product
that has int8 activations.
"""

from copy import deepcopy

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import rig, tiny  # noqa: E402

from targetsft_jax.checkpoints.open import open_model  # noqa: E402
from targetsft_jax.models import decoder  # noqa: E402

pytestmark = pytest.mark.parity


def _rounded(x, axis):
    """Values of 255 steps up to the largest along an axis."""
    scale = x.abs().amax(axis, keepdim=True) / 127
    return torch.round(x / scale) * scale


def _emulated(theirs, activations):
    """A copy whose layers have rounded weights, and round their activations."""
    model = deepcopy(theirs).double()

    def hook(_, inputs):
        return (_rounded(inputs[0], -1),)

    with torch.no_grad():
        for name, module in model.model.layers.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(_rounded(module.weight, -1))
                if activations:
                    module.register_forward_pre_hook(hook)
            elif name.endswith("experts"):  # [E, out, in], in the activations' dtype
                for weight in module.parameters(recurse=False):
                    weight.copy_(_rounded(weight, -1))
    return model


@pytest.mark.parametrize("case", ["qwen2-tied", tiny.first_case("gemma2"), "mixtral"])
def test_logits(case, tmp_path):
    theirs, ids = tiny.build(**tiny.CASES[case]), tiny.tokens()
    theirs.save_pretrained(tmp_path)
    stored = open_model(tmp_path)
    if stored.config.num_experts:  # the grouped product has no float64
        theirs.set_experts_implementation("eager")
    params = stored.load(rig.one_device(), np.float32, int8=True)
    hidden = decoder.apply(stored.config, params, ids)
    ours = np.asarray(hidden @ decoder.head(params).T, np.float64)
    cap = stored.config.final_logit_softcap
    ours = ours if cap is None else cap * np.tanh(ours / cap)
    full, weights, both = (
        tiny.logits(model, ids)
        for model in (
            deepcopy(theirs).double(),
            _emulated(theirs, activations=False),
            _emulated(theirs, activations=True),
        )
    )
    error = np.abs(ours - both).mean()
    # A rounding of float32 may move a few activations by one step.
    assert error < 0.05 * np.abs(both - weights).mean()
    assert error < 0.05 * np.abs(weights - full).mean()
    assert jax.tree.leaves(params["layers"])[0].shape[0] == stored.config.num_layers
