"""Trade item numbers: what EAN, UPC and ITF-14 bar codes say, brought to one form.

The same product is read as UPC-E, UPC-A, EAN-13 or within GS1 data; stock needs one key for it.
Source: GS1 General Specifications, "GTIN formats" and "Check digit calculations".
"""

from typing import Final

LENGTHS: Final = (8, 12, 13, 14)
"""Digits of GTIN-8, GTIN-12, GTIN-13 and GTIN-14."""


def check_digit(body: str) -> str:
    """The digit that belongs behind these: weights 3, 1, 3, … from the right, modulo 10."""
    if not is_digits(body):
        raise ValueError(f"{body!r} is not made of digits")
    codes = body.encode()
    # Sums of bytes: each digit is 48 more than it says.
    weighted = 3 * sum(codes[-1::-2]) + sum(codes[-2::-2])
    excess = 48 * (2 * len(codes[-1::-2]) + len(codes))
    return str((excess - weighted) % 10)


def is_digits(text: str) -> bool:
    """Whether the text is one or more of the digits 0 to 9, and nothing else."""
    return text.isascii() and text.isdigit()


def has_check_digit(text: str) -> bool:
    """Whether the last digit fits those before it; every GTIN, SSCC and GLN has that."""
    return len(text) > 1 and is_digits(text) and check_digit(text[:-1]) == text[-1]


def is_gtin(text: str) -> bool:
    """Whether this is a GTIN-8, -12, -13 or -14 with the right check digit."""
    return len(text) in LENGTHS and has_check_digit(text)


def normal_form(text: str) -> str:
    """The one form of a GTIN that names stock; a ValueError for anything else.

    GTIN-12 and -13 have 13 digits, GTIN-8 has 8, and a GTIN-14 has 14 when its first digit,
    the packaging level, is not 0. Zeros before a shorter one, as data fields of 14 digits
    have them, fall away.
    """
    if not is_gtin(text):
        raise ValueError(f"{text!r} is no GTIN: 8, 12, 13 or 14 digits, the last a check digit")
    padded = text.zfill(14)
    if padded.startswith("000000"):
        return padded[6:]
    return padded.removeprefix("0")


def expanded(upc_e: str) -> str:
    """The UPC-A of 12 digits that a UPC-E of 8 stands for; a ValueError if it is not one.

    The last of the six digits in the middle tells where zeros were left out ("UPC-E bar code",
    "Zero-suppression").
    """
    if len(upc_e) != len("01234565") or not is_digits(upc_e) or upc_e[0] not in "01":
        raise ValueError(f"{upc_e!r} is no UPC-E: 8 digits, the first 0 or 1")
    system, six, check = upc_e[0], upc_e[1:7], upc_e[7]
    body = system + _with_zeros(six)
    if check_digit(body) != check:
        raise ValueError(f"{upc_e!r} has the check digit {check}, not {check_digit(body)}")
    return body + check


def _with_zeros(six: str) -> str:
    last = six[5]
    if last in "012":
        return f"{six[:2]}{last}0000{six[2:5]}"
    if last == "3":
        return f"{six[:3]}00000{six[3:5]}"
    if last == "4":
        return f"{six[:4]}00000{six[4]}"
    return f"{six[:5]}0000{last}"
