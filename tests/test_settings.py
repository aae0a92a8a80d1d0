import pytest

from hubbub import Settings
from hubbub.errors import ConfigurationError
from hubbub.settings import describe

SETTINGS = list(describe())
BY_NAME = {setting.name: setting for setting in SETTINGS}


def test_without_anything_said_the_defaults_apply():
    assert Settings.load(environment={}) == Settings()


def test_what_the_code_says_applies():
    assert Settings.load(Settings(port=9000), {}).port == 9000


def test_the_environment_wins_over_the_code_setting_by_setting():
    code = Settings(port=9000, host="0.0.0.0", lease=5.0)
    settings = Settings.load(code, {"HUBBUB_PORT": "9001", "PORT": "1", "HUBBUB_HOST": ""})
    assert settings == Settings(port=9001, host="", lease=5.0)


def test_the_process_environment_is_read_unless_another_is_given(monkeypatch):
    monkeypatch.setenv("HUBBUB_MAX_ROOMS", "7")
    assert Settings.load().max_rooms == 7
    assert Settings.load(environment={}).max_rooms == Settings().max_rooms


@pytest.mark.parametrize("name", BY_NAME)
def test_every_setting_can_be_given_in_code_and_in_the_environment(name):
    setting = BY_NAME[name]
    if isinstance(setting.kind, tuple):
        text = next(choice for choice in setting.kind if choice != setting.default)
        value: object = text
    elif setting.kind is bool:
        text, value = ("false", False) if setting.default else ("true", True)
    elif setting.kind is str:
        text = value = "something else"
    else:
        value = (setting.default or 0) + 1
        text = str(value)
    expected = Settings(**{name: value})
    assert Settings.load(expected, {}) == expected
    assert Settings.load(environment={"HUBBUB_" + name.upper(): text}) == expected
    assert getattr(expected, name) != setting.default


@pytest.mark.parametrize("text", ["1", "true", "True", "TRUE"])
def test_yes_can_be_said_in_some_ways(text):
    assert Settings.load(environment={"HUBBUB_RELOAD": text}).reload is True


@pytest.mark.parametrize("text", ["0", "false", "False", "FALSE"])
def test_no_can_be_said_in_some_ways(text):
    assert Settings.load(environment={"HUBBUB_NATIVE": text}).native is False


def test_seconds_may_be_whole_numbers():
    assert Settings.load(Settings(lease=5), {"HUBBUB_DRAIN": "3"}) == Settings(lease=5.0, drain=3.0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "http"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "80.5"),
        ("port", ""),
        ("workers", "0"),
        ("native", "perhaps"),
        ("log_level", "loud"),
        ("log_format", "xml"),
        ("lease", "0"),
        ("lease", "nan"),
        ("lease", "soon"),
        ("drain", "-0.1"),
        ("max_message", "124"),
        ("max_outbox", "1023"),
    ],
)
def test_a_value_that_can_not_be_is_refused_with_the_variable_and_what_it_is_for(name, text):
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(environment={"HUBBUB_" + name.upper(): text})
    told = str(refused.value)
    assert told.startswith(f"HUBBUB_{name.upper()} is {text!r}, which can't be: ")
    assert told.endswith(f". {BY_NAME[name].description}")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (Settings(port=65536), "port is 65536, which can't be: Expected `int` <= 65535."),
        (Settings(lease=-1.0), "lease is -1.0, which can't be: Expected `float` > 0.0."),
        (Settings(host=None), "host is None, which can't be: Expected `str`, got `null`."),
        (Settings(native=1), "native is 1, which can't be: Expected `bool`, got `int`."),
        (Settings(workers=1.5), "workers is 1.5, which can't be: Expected `int`, got `float`."),
    ],
)
def test_a_value_in_code_that_can_not_be_is_refused_with_its_name(code, told):
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(code, {})
    assert str(refused.value).startswith(told)


def test_a_value_that_the_environment_replaces_need_not_be_right_in_code():
    assert Settings.load(Settings(port=-1), {"HUBBUB_PORT": "1"}).port == 1


def test_a_setting_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match="prot"):
        Settings(prot=9000)


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        Settings().port = 1


# Secrets


def test_settings_show_what_differs_from_the_defaults_and_no_secrets():
    settings = Settings(port=9000, broker="memory://user:secret@host", ssl_keyfile_password="secret")
    assert repr(settings) == "Settings(port=9000, ssl_keyfile_password=***, broker=***)"
    assert repr(Settings()) == "Settings()"


def test_a_secret_that_is_taken_back_is_shown_as_nothing():
    assert [setting.name for setting in SETTINGS if setting.secret] == [
        "ssl_keyfile_password",
        "broker",
        "api_keys",
    ]
    assert repr(Settings(broker=None)) == "Settings(broker=None)"


def test_a_refusal_does_not_show_a_secret():
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(Settings(broker=["secret"]), {})
    assert str(refused.value).startswith("broker is ***, which can't be: Expected `str`, got `array`.")
    assert "secret" not in str(refused.value)


# As the command line and the documentation show them


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_has_a_default_that_fits_a_group_and_a_sentence(setting):
    assert setting.convert(setting.default, source="default") == setting.default
    assert setting.group
    assert setting.description[0].isupper()
    assert setting.description.endswith(".")


def test_a_setting_has_its_names_and_its_kind():
    setting = BY_NAME["max_message"]
    assert (setting.variable, setting.option) == ("HUBBUB_MAX_MESSAGE", "--max-message")
    kinds = {name: BY_NAME[name].kind for name in ("native", "port", "lease", "host", "uds", "log_format")}
    assert kinds == {
        "native": bool,
        "port": int,
        "lease": float,
        "host": str,
        "uds": str,
        "log_format": ("text", "json"),
    }


def test_settings_are_described_in_the_order_of_their_definition():
    assert [setting.name for setting in SETTINGS] == list(Settings.__struct_fields__)


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_a_number_without_end_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"HUBBUB_MAX_MESSAGE_RATE is '-?(inf|nan)', which can't be"):
        Settings.load(environment={"HUBBUB_MAX_MESSAGE_RATE": value})
    with pytest.raises(ConfigurationError, match=r"max_message_rate is .*: Expected a finite number"):
        Settings.load(Settings(max_message_rate=float("inf")), {})
