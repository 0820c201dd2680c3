"""Entry point shared by all commands: exit codes and error messages.

0    success
1    failure: one line on standard error
2    invalid arguments or configuration
3    `plan` only: the step does not fit
130  interrupted
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence

DONE, FAILED, BAD_ARGUMENTS, DOES_NOT_FIT, INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(ValueError):
    """Invalid arguments or configuration."""


class Stopped(Exception):
    """The command stopped early on request, with everything saved."""


def run_command(
    action: Callable[[list[str]], int | None],
    arguments: Sequence[str] | None = None,
    *,
    interrupted: str = "interrupted; nothing was written",
) -> int:
    """Run a command and map its errors to one-line messages and exit codes.

    Args:
        action: the command; it takes the arguments and returns an exit code, None for
            DONE.
        arguments: command-line arguments; None for those of the process.
        interrupted: message printed on Ctrl-C.

    Returns:
        The exit code. `Stopped` is printed and counts as success; `UsageError`,
        `ValueError` and `OSError` become one line on standard error; other exceptions
        are defects and pass through.
    """
    # Transformers reports a missing torch, which configs and tokenizers do not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        status = action(list(sys.argv[1:] if arguments is None else arguments))
    except Stopped as stop:
        print(stop)
        return DONE
    except UsageError as error:
        sys.stderr.write(f"configuration: {error}\n")
        return BAD_ARGUMENTS
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return INTERRUPTED
    return DONE if status is None else status


def file_size(text: str) -> int:
    """Argparse type of file sizes: "5GB", "500 MB" or "1.5kB" in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; expected one such as 5GB or 500MB"
        )
    unit = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2].upper()]
    return int(float(match[1]) * unit)
