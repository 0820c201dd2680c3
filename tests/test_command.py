"""Entry point of the commands: exit codes, and one line per error."""

import argparse
import os

import pytest

from targetsft_jax import command


@pytest.mark.parametrize(
    "error, code, printed",
    [
        (command.UsageError("k is 1; expected 2"), 2, "configuration: k is 1"),
        (ValueError("bad row"), 1, "error: bad row"),
        (FileNotFoundError("no file"), 1, "error: no file"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(capsys, error, code, printed):
    def action(_: list[str]) -> None:
        raise error

    assert command.run_command(action, []) == code
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.startswith(printed)
    assert streams.err.count("\n") == 1


def test_results_of_the_action_are_exit_codes():
    assert command.run_command(lambda _: None, []) == command.DONE
    assert command.run_command(lambda _: command.DOES_NOT_FIT, []) == 3


def test_a_defect_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        command.run_command(lambda _: 1 // 0, [])


def test_the_arguments_are_those_of_the_process_by_default(monkeypatch):
    received: list[list[str]] = []
    monkeypatch.setattr("sys.argv", ["command", "a", "--b"])
    command.run_command(lambda arguments: received.append(arguments))
    assert received == [["a", "--b"]]


def test_output_files_are_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    new = tmp_path / "new" / "a.png"
    assert command.output_file(str(new)) == new
    assert command.output_file(str(tmp_path / "file"))
    for text in ("", " ", str(tmp_path), f"{tmp_path}/file/a.png", f"{tmp_path}/pipe"):
        with pytest.raises(argparse.ArgumentTypeError, match="blank|folder|not a file"):
            command.output_file(text)


def test_numbers_of_arguments():
    assert command.positive_number("1e3") == 1000 and command.row_count("7") == 7
    for text in ("0", "-1", "nan", "inf", "1e999", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            command.positive_number(text)
    for text in ("0", "-5", "1.5", "9" * 5000, "x", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            command.row_count(text)


@pytest.mark.parametrize("code", [command.STOPPED, command.INTERRUPTED])
def test_a_stopped_command_ends_without_a_teardown(monkeypatch, code):
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise SystemExit("ended at once")

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit, match="ended at once"):
        command.leave(code)
    assert codes == [code]


@pytest.mark.parametrize("code", [command.DONE, command.FAILED])
def test_other_commands_leave_by_the_interpreter(monkeypatch, code):
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("no teardown"))
    with pytest.raises(SystemExit) as caught:
        command.leave(code)
    assert caught.value.code == code
