"""Host memory and time of `convert to-hf`, and exactness of the round trip.

    python perf/export_memory.py [--gib 2.5]

Writes a random checkpoint to a temporary folder, converts it with `from-hf`, and back
with `to-hf` in a new process whose memory is sampled. Peaks are relative to the memory
after the imports. Fails if a byte of a tensor differs.
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

from import_memory import CONFIG, GIB, sampled, write


def export(ours: str, out: str) -> None:
    """Convert in this process, sample its memory, print one line of JSON."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import targetsft_jax.checkpoints.reader  # noqa: F401  in the baseline
    from targetsft_jax.convert import main
    from targetsft_jax.hf import exporter  # noqa: F401

    jax.numpy.zeros(()).block_until_ready()
    start = time.perf_counter()
    with sampled() as memory:
        status = main(["to-hf", ours, out])
    seconds = time.perf_counter() - start
    print(json.dumps({**memory, "s": seconds, "status": status}))


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the bytes of each tensor."""
    from targetsft_jax.hf.tensor_files import open_tensors

    return {
        key: hashlib.sha256(tensor.rows(0, tensor.shape[0])).hexdigest()
        for key, tensor in open_tensors(folder).items()
    }


def run() -> int:
    """Print the measurement; return 1 if a byte differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gib", type=float, default=2.5, help="checkpoint size")
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        export(*options.export)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="export_memory-"))
    theirs, ours, back = (folder / name for name in ("theirs", "ours", "back"))
    try:
        theirs.mkdir()
        write(theirs, options.gib)
        command = [sys.executable, "-m", "targetsft_jax.convert", "from-hf"]
        subprocess.run([*command, theirs, ours], check=True)
        command = [sys.executable, __file__, "--export", ours, back]
        out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        result = json.loads(out.splitlines()[-1])
        size = sum(path.stat().st_size for path in back.iterdir())
        largest = CONFIG["vocab_size"] * CONFIG["hidden_size"] * 2
        print(f"checkpoint {size / GIB:.2f} GiB, largest tensor {largest / GIB:.2f}")
        for key, base in result["base"].items():
            over = result["peak"][key] - base
            print(f"{key:8} base {base / GIB:.2f}, peak over it {over / GIB:.2f}")
        print(f"{result['s']:.1f} s")
        same = digests(theirs) == digests(back)
        print("every tensor has the same bytes" if same else "tensors DIFFER")
    finally:
        shutil.rmtree(folder)
    return 0 if same and result["status"] == 0 else 1


if __name__ == "__main__":
    sys.exit(run())
