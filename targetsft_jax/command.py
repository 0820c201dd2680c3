"""Entry point shared by all commands: exit codes and error messages.

0    success
1    failure: one line on standard error
2    invalid arguments or configuration
3    `plan` only: the step does not fit
75   another process of the job was lost; the same command resumes
130  interrupted by Ctrl-C
143  stopped early by SIGTERM; the same command resumes
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Self

from targetsft_jax.output import robust_streams

DONE, FAILED, BAD_ARGUMENTS, DOES_NOT_FIT = 0, 1, 2, 3
LOST, INTERRUPTED, STOPPED = 75, 130, 143


class UsageError(ValueError):
    """Invalid arguments or configuration."""


class Stopped(BaseException):
    """The command stopped early on request.

    Not an Exception, so that no handler of errors takes it for one.

    Args:
        message: what was stopped, and what is saved.
        code: exit code of the command.
    """

    def __init__(self, message: str, code: int = STOPPED):
        super().__init__(message)
        self.code = code

    def with_details(self, details: str) -> Self:
        """Append to the message; returns the exception."""
        self.args = (f"{self}; {details}",)
        return self


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
        The exit code, which is that of a `Stopped`. `Stopped`, `UsageError`,
        `ValueError` and `OSError` become one line on standard error; other exceptions
        are defects and pass through.
    """
    # Transformers reports a missing torch, which configs and tokenizers do not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if sys.stderr is None or not sys.stderr.isatty():
        # Progress bars of downloads would fill a log file with carriage returns.
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with robust_streams():
        return _exit_code(action, arguments, interrupted)


def leave(code: int) -> NoReturn:
    """End the process with an exit code.

    After a stop it ends at once: the interpreter's teardown can crash while the devices
    still compute what was interrupted. All files are written at this point.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (STOPPED, INTERRUPTED):
        os._exit(code)
    sys.exit(code)


def file_size(text: str) -> int:
    """Argparse type of file sizes: "5GB", "500 MB" or "1.5kB" in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; expected one such as 5GB or 500MB"
        )
    unit = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2].upper()]
    return int(float(match[1]) * unit)


def output_file(text: str) -> Path:
    """Argparse type of files to write; refused if no file can be written there."""
    path = Path(text)
    if not text.strip() or path.is_dir():
        found = "is a folder" if text.strip() else "is blank"
        raise argparse.ArgumentTypeError(f"{text!r} {found}; expected a file to write")
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file; expected a file")
    existing = next(p for p in path.absolute().parents if os.path.lexists(p))
    if not existing.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be written, since {existing} is not a folder"
        )
    return path


def positive_number(text: str) -> float:
    """Argparse type of finite numbers more than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number more than 0")
    return value


def row_count(text: str) -> int:
    """Argparse type of numbers of rows to print, from 1 to a million."""
    if not re.fullmatch(r"\d{1,7}", text.strip()) or not 1 <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1 to 1,000,000")
    return int(text)


def job_count(text: str) -> int:
    """Argparse type of numbers of processes, from 1 to 1024."""
    if not re.fullmatch(r"\d{1,4}", text.strip()) or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1 to 1024")
    return int(text)


def _exit_code(
    action: Callable[[list[str]], int | None],
    arguments: Sequence[str] | None,
    interrupted: str,
) -> int:
    try:
        status = action(list(sys.argv[1:] if arguments is None else arguments))
    except Stopped as stop:
        sys.stderr.write(f"{stop}\n")
        return stop.code
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
