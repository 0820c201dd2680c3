"""Rows under another prompt than that of the student."""

import dataclasses

from targetsft_jax.data.record import Record, field_text
from targetsft_jax.data.shapes import Reading


def prompted_reading(reading: Reading, prompt: str) -> Reading:
    """The map of a source's fields, with another prompt.

    Raises:
        ValueError: its rows have no prompt of one text.
    """
    if reading.fields.prompt is None:
        raise ValueError(
            f"teacher.prompt is set, and the rows are read as {reading.title}, which "
            "has no prompt to replace; expected rows with a prompt and a response: set "
            "data.fields.prompt and data.fields.response"
        )
    fields = dataclasses.replace(reading.fields, prompt=prompt)
    return dataclasses.replace(reading, fields=fields)


def prompted_record(record: Record, prompt: str) -> Record:
    """A generated record with another prompt: a template of {prompt} and {answer}.

    Raises:
        RowError: another hole.
    """
    *_, question, response = record.messages
    row = {"prompt": question["content"], "answer": record.answer}
    text = field_text(row, prompt, record.origin)
    messages = [{**question, "content": text}, response]
    return dataclasses.replace(record, messages=messages)
