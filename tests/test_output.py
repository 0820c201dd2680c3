"""Standard streams that are closed, full, without a reader or without Unicode."""

import io
import os
import subprocess
import sys

import pytest

from targetsft_jax.output import robust_streams

PROGRAM = """
import sys
from targetsft_jax.command import run_command

def action(arguments):
    for number in range(int(arguments[0])):
        print("γ and ⟦", number, flush=number % 2 == 0)

sys.exit(run_command(action))
"""


def _run(redirection: str, lines: int = 3, **variables) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -c '{PROGRAM}' {lines} {redirection}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "redirection, error",
    [
        (">&-", ""),
        ("2>&-", ""),
        (">&- 2>&-", ""),
        ("> /dev/full", "No space left on device"),
        ("| true", "Broken pipe"),
        ("2>&1 | true", ""),
    ],
)
def test_a_command_ends_as_if_its_output_were_read(redirection, error):
    done = _run(redirection, lines=2000)
    assert done.returncode == 0, done
    lines = done.stderr.splitlines()
    assert len(lines) == bool(error)
    if error:
        assert error in lines[0] and "standard output cannot be written" in lines[0]


def test_characters_that_the_terminal_lacks_are_escaped():
    done = _run("", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == r"\u03b3 and \u27e6 0"


def test_a_full_disk_loses_lines_and_later_ones_are_written(monkeypatch, capsys):
    class Full(io.StringIO):
        full = True

        def write(self, text):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    monkeypatch.setattr(sys, "stdout", stream)
    with robust_streams():
        print("lost")
        stream.full = False
        print("written")
    assert sys.stdout is stream and stream.getvalue() == "written\n"
    assert capsys.readouterr().err.count("cannot be written") == 1
