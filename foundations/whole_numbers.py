"""The one parser of whole numbers in files and arguments that users write."""

_MOST_DIGITS = 18  # these fit an int64, and int() would refuse or take minutes over thousands


def whole_number(text: str, what: str = "a number") -> int:
    """The number that the digits 0 to 9 spell, blanks around them left out.

    `int` reads more: signs, underscores, and the digits of every script.

    Args:
        what: what the number stands for, for the message.

    Raises:
        ValueError: `text` is something else, or has over 18 digits.
    """
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS):
        shown = repr(digits[:40]) + ("..." if len(digits) > 40 else "")
        raise ValueError(f"{shown} is not {what}, which has 1 to {_MOST_DIGITS} digits, 0 to 9")
    return int(digits)
