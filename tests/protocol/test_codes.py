import pytest
from websockets.frames import EXTERNAL_CLOSE_CODES, Close
from websockets.frames import CloseCode as StandardCode

from hubbub.protocol.codes import ERROR_CODES, CloseCode, ErrorCode

STAYS_AWAY = {1000, 1002, 1003, 1005, 1007, 1009}


@pytest.mark.parametrize("code", CloseCode)
def test_a_close_codes_range_says_whether_to_come_back(code):
    if code >= 4000:
        assert 4400 <= code < 4600
        assert code.comes_back is (code >= 4500)
    else:
        assert code.comes_back is (code not in STAYS_AWAY)


@pytest.mark.parametrize("code", [code for code in CloseCode if code < 4000])
def test_close_codes_below_4000_are_those_of_the_standard(code):
    assert code.value in {standard.value for standard in StandardCode}


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4000 or code in EXTERNAL_CLOSE_CODES])
def test_a_close_code_is_its_number_and_can_be_sent(code):
    assert Close(code, "").serialize() == int(code).to_bytes(2, "big")


@pytest.mark.parametrize("code", [*CloseCode, *ErrorCode])
def test_every_code_has_a_sentence(code):
    assert code.meaning[0].isupper() or code.meaning[0] == "`"
    assert code.meaning.endswith(".")


def test_a_close_code_is_found_by_its_number():
    assert CloseCode(4513) is CloseCode.TOO_SLOW


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_code_is_its_name_on_the_wire(code):
    assert ERROR_CODES[str(code)] is code
    assert f"{code}" == code.value == code.name.lower()


def test_only_what_may_succeed_later_is_to_be_retried():
    assert [code for code in ErrorCode if code.retry] == [ErrorCode.UNAVAILABLE]
