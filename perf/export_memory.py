"""Host memory and time of `convert to-hf`, and that HF to ours and back is exact.

    python perf/export_memory.py [--gib 2.5]

Makes a random checkpoint in a temporary folder, converts it with `from-hf`, and back
with `to-hf` in a fresh process that is watched. Peaks are over the memory that the
process has once everything is imported.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from import_memory import CONFIG, GIB, watched, write


def export(ours: str, out: str) -> None:
    """Convert in this process, watch its memory, print one line of JSON."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import targetsft_jax.checkpoints.reader  # noqa: F401  part of the baseline
    from targetsft_jax.convert import main
    from targetsft_jax.hf import exporter  # noqa: F401

    jax.numpy.zeros(()).block_until_ready()
    began = time.perf_counter()
    with watched() as memory:
        status = main(["to-hf", ours, out])
    seconds = time.perf_counter() - began
    print(json.dumps({**memory, "s": seconds, "status": status}))


def digests(folder: Path) -> dict[str, str]:
    """Of every tensor's bytes."""
    from targetsft_jax.hf.tensor_files import open_tensors

    return {
        key: hashlib.sha256(tensor.rows(0, tensor.shape[0])).hexdigest()
        for key, tensor in open_tensors(folder).items()
    }


def run() -> int:
    """Make, convert, print; 1 where a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=2.5)
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    own = parser.parse_args()
    if own.export:
        export(*own.export)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="export_memory-"))
    theirs, ours, back = (folder / name for name in ("theirs", "ours", "back"))
    try:
        theirs.mkdir()
        write(theirs, own.gib)
        command = [sys.executable, "-m", "targetsft_jax.convert", "from-hf"]
        subprocess.run([*command, theirs, ours], check=True)
        command = [sys.executable, __file__, "--export", ours, back]
        out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        found = json.loads(out.splitlines()[-1])
        size = sum(path.stat().st_size for path in back.iterdir())
        largest = CONFIG["vocab_size"] * CONFIG["hidden_size"] * 2
        print(f"checkpoint {size / GIB:.2f} GiB, largest tensor {largest / GIB:.2f}")
        for key, base in found["base"].items():
            over = found["peak"][key] - base
            print(f"{key:8} base {base / GIB:.2f}, peak over it {over / GIB:.2f}")
        print(f"{found['s']:.1f} s")
        same = digests(theirs) == digests(back)
        print("every tensor has the same bytes" if same else "tensors DIFFER")
    finally:
        shutil.rmtree(folder)
    return 0 if same and found["status"] == 0 else 1


if __name__ == "__main__":
    sys.exit(run())
