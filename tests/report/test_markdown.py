"""A table of words."""

import pytest

from ddpm_jax.report import tables


def test_a_table_is_padded_and_aligned() -> None:
    assert tables.markdown_table(["name", "K = 10"], [["small", "74.95"], ["a", "–"]]) == (
        "| name  | K = 10 |\n| :---- | -----: |\n| small |  74.95 |\n| a     |      – |\n"
    )


def test_narrow_columns_leave_room_for_the_rule() -> None:
    assert tables.markdown_table(["a", "b"], []) == "| a   |   b |\n| :-- | --: |\n"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        tables.markdown_table(["a", "b"], [["1", "2"], ["3"]])
