"""A whole number is what the digits 0 to 9 spell, and nothing that `int` reads besides."""

import pytest

from dnachunker.foundations.whole_numbers import whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), (" 007 ", 7), ("9" * 18, 10**18 - 1)])
def test_digits_are_read(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["", " ", "-1", "+1", "1_0", "1.0", "1e3", "0x1", "٣", "²", "１", "1 0", "9" * 5000])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a width, which has 1 to 18 digits") as error:
        whole_number(text, "a width")
    assert len(str(error.value)) < 120
