"""Host memory and time of loading a large checkpoint, on one and on eight devices.

    python perf/import_memory.py [--gib 4.5] [--dtype bfloat16]

Makes a random sharded checkpoint in a temporary folder and loads it in fresh
processes. On a CPU the devices' arrays are host memory too, so they are subtracted:
what is left is what loading itself takes. It must stay under the largest tensor and
1 GiB. `RssAnon` is memory of the process's own; `RSS` has the mapped files' pages as
well, which the system can take back at any time.
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
# The shapes of a 7B model; layers are as many as fill the size asked for.
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
    """A checkpoint of at least so many GiB, in files of about 1 GiB."""
    import jax.numpy as jnp
    import numpy as np
    from safetensors.numpy import save_file

    from targetsft_jax.hf.config_json import config_from_json
    from targetsft_jax.hf.families import places
    from targetsft_jax.models.config import num_parameters

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
    weight_map, part, held, number = {}, {}, 0, 1

    def flush():
        nonlocal part, held, number
        name = f"model-{number:05d}.safetensors"
        save_file(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
        part, held, number = {}, 0, number + 1

    for key in places(config):
        module = next(name for name in shapes if f"{name}." in key)
        shape = shapes[module][:1] if key.endswith("bias") else shapes[module]
        part[key] = np.resize(noise, shape)
        held += part[key].nbytes
        if held > GIB:
            flush()
    flush()
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def load(folder: Path, devices: int, dtype: str) -> None:
    """Load in this process, watch its memory, print one line of JSON."""
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
    places = rules.shardings(decoder.logical_axes(config), shapes, mesh)
    jnp.zeros(()).block_until_ready()
    began = time.perf_counter()
    with watched() as found:
        params = load_params(folder, config, dtype=jnp.dtype(dtype), shardings=places)
        jax.block_until_ready(params)
    seconds = time.perf_counter() - began
    arrays = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(params)
        for shard in leaf.addressable_shards
    )
    print(json.dumps({**found, "arrays": arrays, "s": seconds}))


@contextlib.contextmanager
def watched() -> Iterator[dict[str, dict[str, int]]]:
    """This process's memory at the start of the block, and its peak within."""
    found = {"base": memory(), "peak": memory()}
    done = threading.Event()

    def watch():
        while not done.wait(0.005):
            for key, value in memory().items():
                found["peak"][key] = max(found["peak"][key], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def memory() -> dict[str, int]:
    """Bytes of this process: all in memory, and what is its own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(
        line.split(":", 1) for line in lines if line.startswith(("VmRSS", "RssA"))
    )
    return {
        "RSS": int(found["VmRSS"].split()[0]) * 1024,
        "RssAnon": int(found["RssAnon"].split()[0]) * 1024,
    }


def main() -> int:
    """Make, load in fresh processes, print; 1 where the bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=4.5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    own = parser.parse_args()
    if own.load:
        load(Path(own.load), own.devices, own.dtype)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="import_memory-"))
    good = True
    try:
        write(folder, own.gib)
        on_disk = sum(path.stat().st_size for path in folder.iterdir())
        largest = CONFIG["vocab_size"] * CONFIG["hidden_size"] * 2
        print(f"checkpoint {on_disk / GIB:.2f} GiB, largest tensor {largest / GIB:.2f}")
        print("devices  arrays  base RssAnon  peak over both  RSS over both  seconds")
        for devices in (1, 8):
            command = [sys.executable, __file__, "--load", folder, "--dtype", own.dtype]
            out = subprocess.run(
                [*map(str, command), "--devices", str(devices)],
                stdout=subprocess.PIPE,
                check=True,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
            ).stdout
            found = json.loads(out.splitlines()[-1])
            over = {
                key: found["peak"][key] - found["base"][key] - found["arrays"]
                for key in found["base"]
            }
            good &= max(over.values()) < largest + GIB
            print(
                f"{devices:7}  {found['arrays'] / GIB:6.2f}  "
                f"{found['base']['RssAnon'] / GIB:12.2f}  {over['RssAnon'] / GIB:14.2f}"
                f"  {over['RSS'] / GIB:13.2f}  {found['s']:7.1f}"
            )
    finally:
        shutil.rmtree(folder)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
