"""Data of a page: complete and consistent, or refused."""

from dataclasses import replace

import numpy as np
import pytest
from support.pages import page_data

from targetsft_jax.inspection.page_data import PageData


@pytest.mark.parametrize(
    "roles", [("student",), ("student", "teacher"), ("student", "before")]
)
def test_a_page_survives_its_container(roles) -> None:
    page = page_data(roles=roles)
    result = PageData.from_bytes(page.to_bytes())
    result.check()
    assert result.header == page.header
    for name, expected in page.arrays.items():
        np.testing.assert_array_equal(result.arrays[name], expected)


def test_a_missing_entry_is_named() -> None:
    page = page_data()
    header = {key: value for key, value in page.header.items() if key != "curve"}
    with pytest.raises(ValueError, match="lacks the entries curve"):
        replace(page, header=header).check()


def test_a_missing_or_misshapen_array_is_named() -> None:
    page = page_data()
    arrays = {key: value for key, value in page.arrays.items() if key != "b_gem"}
    with pytest.raises(ValueError, match="lacks the array b_gem"):
        replace(page, arrays=arrays).check()
    arrays = {**page.arrays, "logz_eta": page.arrays["logz_eta"][:, :3]}
    with pytest.raises(ValueError, match="logz_eta is float32"):
        replace(page, arrays=arrays).check()
