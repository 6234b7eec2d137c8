import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.steps import gtin

bodies = st.integers(7, 13).filter(lambda n: n + 1 in gtin.LENGTHS)
digits = bodies.flatmap(lambda n: st.text("0123456789", min_size=n, max_size=n))


@pytest.mark.parametrize(
    "text",
    ["96385074", "614141000036", "4006381333931", "9501101530003", "10614141000415"],
)
def test_printed_numbers_have_their_check_digit(text: str) -> None:
    assert gtin.check_digit(text[:-1]) == text[-1]
    assert gtin.is_gtin(text)


@given(digits, st.integers(0, 13), st.integers(1, 9))
def test_one_wrong_digit_is_always_noticed(body: str, at: int, more: int) -> None:
    right = body + gtin.check_digit(body)
    at %= len(right)
    wrong = f"{right[:at]}{(int(right[at]) + more) % 10}{right[at + 1 :]}"

    assert gtin.is_gtin(right)
    assert not gtin.is_gtin(wrong)


@given(digits, st.integers(0, 12))
def test_swapped_neighbours_are_noticed_unless_they_differ_by_five(body: str, at: int) -> None:
    right = body + gtin.check_digit(body)
    at %= len(right) - 1
    first, second = right[at], right[at + 1]

    swapped = f"{right[:at]}{second}{first}{right[at + 2 :]}"

    assert gtin.is_gtin(swapped) == ((int(first) - int(second)) % 5 == 0)


@given(st.text(max_size=20))
def test_other_text_is_no_gtin_and_no_error(text: str) -> None:
    assert not gtin.is_gtin(text) or (text.isascii() and text.isdigit())


def test_digits_of_other_scripts_are_no_digits() -> None:
    full_width = "4006381333931".translate({digit: 0xFEE0 + digit for digit in range(48, 58)})
    assert full_width.isdigit()
    assert not gtin.is_gtin(full_width)


@given(digits)
def test_all_writings_of_a_number_have_one_form(body: str) -> None:
    text = body + gtin.check_digit(body)

    forms = {gtin.normal_form(text.zfill(n)) for n in gtin.LENGTHS if n >= len(text)}

    assert len(forms) == 1
    assert gtin.normal_form(forms.pop()).zfill(14) == text.zfill(14)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("96385074", "96385074"),
        ("00000096385074", "96385074"),
        ("042100005264", "0042100005264"),
        ("0042100005264", "0042100005264"),
        ("04006381333931", "4006381333931"),
        ("10614141000415", "10614141000415"),
    ],
)
def test_the_form_has_13_digits_unless_the_number_is_shorter_or_a_case(
    text: str, form: str
) -> None:
    assert gtin.normal_form(text) == form


@pytest.mark.parametrize("text", ["", "4006381333932", "400638133393", "x"])
def test_what_is_no_gtin_has_no_form(text: str) -> None:
    with pytest.raises(ValueError, match="is no GTIN"):
        gtin.normal_form(text)


@pytest.mark.parametrize(
    ("short", "long"),
    [  # One of each way to leave out zeros.
        ("01234505", "012000003455"),
        ("01234514", "012100003454"),
        ("01234523", "012200003453"),
        ("01234531", "012300000451"),
        ("01234543", "012340000053"),
        ("01234565", "012345000065"),
        ("12345670", "123456000070"),
    ],
)
def test_a_upc_e_stands_for_a_upc_a(short: str, long: str) -> None:
    assert gtin.expanded(short) == long
    assert gtin.is_gtin(long)


@pytest.mark.parametrize("text", ["01234566", "21234565", "0123456", "0123456x"])
def test_what_is_no_upc_e_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no UPC-E|has the check digit"):
        gtin.expanded(text)


def test_a_check_digit_is_made_of_digits_alone() -> None:
    with pytest.raises(ValueError, match="not made of digits"):
        gtin.check_digit("12a")
