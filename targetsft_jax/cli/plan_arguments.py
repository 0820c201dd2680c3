"""Arguments of the command `plan`."""

import argparse

from targetsft_jax import command


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments beside the keys of a run."""
    add = parser.add_argument
    topology = "TPU generation and bounds, such as v5e:4x4 or v5p:2x2x4; GPUs of a "
    topology += "node, such as h100:8 (memory and traffic, no speed); or cpu:N"
    slices = "TPU slices or nodes of GPUs, joined along mesh.data (default: 1)"
    capacity = "memory per device in GiB (default: that of the device)"
    search = "search for the fastest mesh, remat, micro-batches, vocabulary group and "
    search += "attention kernel that fit; the batch size is kept"
    budget = "programs to compile at most, a minute or more each (default: 6)"
    jobs = "programs to compile at the same time, each in 2 to 4 GiB (default: 1)"
    write = "write the configuration with the best keys to FILE"
    store = "contents of a teacher.cache that is yet to be made: top_k (default), or "
    store += "hidden_states of teacher.path"
    k = "tokens per position of such a cache (default: 64)"
    add("--topology", required=True, metavar="T", help=topology)
    add("--num-slices", type=int, default=1, metavar="N", help=slices)
    add("--capacity", type=command.positive_number, metavar="GIB", help=capacity)
    add("--json", type=command.output_file, metavar="FILE", help="write JSON to FILE")
    add("--search", action="store_true", help=search)
    add("--budget", type=positive_integer, default=6, metavar="N", help=budget)
    add("--jobs", type=positive_integer, default=1, metavar="N", help=jobs)
    add("--write", type=command.output_file, metavar="FILE", help=write)
    add("--store", choices=("top_k", "hidden_states"), help=store)
    add("--k", type=positive_integer, metavar="N", help=k)


def check_plan_arguments(options: argparse.Namespace) -> None:
    """Check arguments that belong to a plan with or without a search.

    Raises:
        UsageError: --write without --search, or --store or --k with it.
    """
    if options.search and (options.store or options.k):
        raise command.UsageError(
            "--store and --k are for a plan without --search; a search reads an "
            "existing teacher.cache, or assumes the top 64 tokens"
        )
    if options.write is not None and not options.search:
        raise command.UsageError("--write needs --search, which finds the keys")


def positive_integer(text: str) -> int:
    """Argparse type of counts: whole numbers of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
