"""Host memory and time of loading a large checkpoint, on one and eight devices.

    python perf/import_memory.py [--gib 4.5] [--dtype bfloat16]

Writes a random sharded checkpoint to a temporary folder and loads it in fresh
processes. On a CPU the arrays of the devices are host memory too and are subtracted;
the remainder, the memory of loading, must stay below the largest tensor plus 1 GiB.
`RssAnon` is the private memory of the process; `RSS` includes the pages of mapped
files, which the system can reclaim at any time.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

GIB = 2**30
# Shapes of a 7B model; the number of layers follows from the requested size.
CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


def write(folder: Path, gib: float) -> None:
    """Write a checkpoint of at least `gib` GiB in files of about 1 GiB."""
    import jax.numpy as jnp
    import numpy as np
    from safetensors.numpy import save_file

    from targetsft_jax.hf.config_json import config_from_json
    from targetsft_jax.hf.tensor_map import checkpoint_tensors
    from targetsft_jax.models.decoder import num_parameters

    def size(layers: int) -> int:
        raw = CONFIG | {"num_hidden_layers": layers}
        return 2 * num_parameters(config_from_json(raw, "here"))

    layers = 1
    while size(layers) < gib * GIB:
        layers += 1
    raw = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(raw))
    config = config_from_json(raw, "here")
    wide, inner = config.hidden_size, config.intermediate_size
    kv = config.num_kv_heads * config.head_dim
    shapes = {
        "embed_tokens": (config.vocab_size, wide),
        "lm_head": None,
        "norm": (wide,),
    }
    shapes |= {"lm_head": shapes["embed_tokens"], "layernorm": (wide,)}
    shapes |= {"q_proj": (wide, wide), "k_proj": (kv, wide), "v_proj": (kv, wide)}
    shapes |= {"o_proj": (wide, wide), "gate_proj": (inner, wide)}
    shapes |= {"up_proj": (inner, wide), "down_proj": (wide, inner)}
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(2**22, np.float32) / 50).astype(jnp.bfloat16)
    weight_map: dict[str, str] = {}
    part: dict[str, np.ndarray] = {}
    size_of_part, number = 0, 1

    def flush() -> None:
        nonlocal part, size_of_part, number
        name = f"model-{number:05d}.safetensors"
        save_file(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
        part, size_of_part, number = {}, 0, number + 1

    for key in checkpoint_tensors(config):
        module = next(name for name in shapes if f"{name}." in key)
        shape = shapes[module][:1] if key.endswith("bias") else shapes[module]
        part[key] = np.resize(noise, shape)
        size_of_part += part[key].nbytes
        if size_of_part > GIB:
            flush()
    flush()
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def load(folder: Path, devices: int, dtype: str) -> None:
    """Load in this process, sample its memory, print one line of JSON."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    from targetsft_jax.hf.importer import load_config, load_params
    from targetsft_jax.models import decoder
    from targetsft_jax.parallel import mesh as meshes
    from targetsft_jax.parallel import rules

    config = load_config(folder)
    shapes = decoder.abstract_params(config)
    mesh = meshes.make_mesh(1, -1, 2 if devices > 1 else 1)
    shardings = rules.shardings(decoder.logical_axes(config), shapes, mesh)
    jnp.zeros(()).block_until_ready()
    start = time.perf_counter()
    with sampled() as memory:
        params = load_params(
            folder, config, dtype=jnp.dtype(dtype), shardings=shardings
        )
        jax.block_until_ready(params)
    seconds = time.perf_counter() - start
    arrays = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(params)
        for shard in leaf.addressable_shards
    )
    print(json.dumps({**memory, "arrays": arrays, "s": seconds}))


@contextlib.contextmanager
def sampled() -> Iterator[dict[str, dict[str, int]]]:
    """Sample the memory of this process: at the start of the block, and the peak."""
    memory = {"base": resident(), "peak": resident()}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            for key, value in resident().items():
                memory["peak"][key] = max(memory["peak"][key], value)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield memory
    finally:
        done.set()
        sampler.join()


def resident() -> dict[str, int]:
    """Return the resident bytes of this process: total and private."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(
        line.split(":", 1) for line in lines if line.startswith(("VmRSS", "RssA"))
    )
    return {
        "RSS": int(fields["VmRSS"].split()[0]) * 1024,
        "RssAnon": int(fields["RssAnon"].split()[0]) * 1024,
    }


def main() -> int:
    """Print the table; return 1 if the bound is exceeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gib", type=float, default=4.5, help="checkpoint size")
    parser.add_argument(
        "--dtype", default="bfloat16", help="dtype of the loaded arrays"
    )
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(Path(options.load), options.devices, options.dtype)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="import_memory-"))
    within_bound = True
    try:
        write(folder, options.gib)
        on_disk = sum(path.stat().st_size for path in folder.iterdir())
        largest = CONFIG["vocab_size"] * CONFIG["hidden_size"] * 2
        print(f"checkpoint {on_disk / GIB:.2f} GiB, largest tensor {largest / GIB:.2f}")
        print("devices  arrays  base RssAnon  peak over both  RSS over both  seconds")
        for devices in (1, 8):
            command = [
                sys.executable,
                __file__,
                "--load",
                folder,
                "--dtype",
                options.dtype,
            ]
            out = subprocess.run(
                [*map(str, command), "--devices", str(devices)],
                stdout=subprocess.PIPE,
                check=True,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
            ).stdout
            result = json.loads(out.splitlines()[-1])
            over = {
                key: result["peak"][key] - result["base"][key] - result["arrays"]
                for key in result["base"]
            }
            within_bound &= max(over.values()) < largest + GIB
            base = result["base"]["RssAnon"] / GIB
            print(
                f"{devices:7}  {result['arrays'] / GIB:6.2f}  "
                f"{base:12.2f}  {over['RssAnon'] / GIB:14.2f}"
                f"  {over['RSS'] / GIB:13.2f}  {result['s']:7.1f}"
            )
    finally:
        shutil.rmtree(folder)
    return 0 if within_bound else 1


if __name__ == "__main__":
    sys.exit(main())
