"""What the project's settings come to, and what `manage.py` says of them: in child processes."""

import json
import subprocess
import sys
from os import environ

import pytest

from hubbub.testing.processes import NotStarted, Process
from integrations.django_project import EXAMPLE, WAYS, manage

READ = """
import json, sys
import django
from django.test import override_settings
django.setup()
from hubbub.integrations.django import configuration
for line in sys.stdin:
    with override_settings(**json.loads(line)):
        said = configuration.read()
    s = said.settings
    told = [said.path, said.session_check, s.allowed_hosts, s.allowed_origins, s.drain, said.problems]
    print(json.dumps(told), flush=True)
"""


@pytest.fixture(scope="module")
def read():
    """Return what the project's settings come to, with some of them changed."""
    with subprocess.Popen(
        [sys.executable, "-c", READ],
        cwd=EXAMPLE,
        env={**environ, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:

        def read(**settings):
            child.stdin.write(json.dumps(settings) + "\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())

        yield read


def test_djangos_own_settings_count_for_the_hub(read):
    assert read(
        HUBBUB={},
        ALLOWED_HOSTS=["example.com", ".example.org"],
        CSRF_TRUSTED_ORIGINS=["https://app.example.com/", "https://*.example.net"],
    ) == ["/live", 60, "example.com, example.org, *.example.org", "https://app.example.com", 10, []]


@pytest.mark.parametrize(
    ("debug", "hosts"), [(True, "localhost, *.localhost, 127.0.0.1, [::1]"), (False, "none.invalid")]
)
def test_without_allowed_hosts_the_hub_answers_to_whom_django_does(read, debug, hosts):
    assert read(DEBUG=debug, ALLOWED_HOSTS=[])[2] == hosts


def test_hosts_of_an_empty_variable_let_nobody_in_as_in_django(read):
    # os.environ.get("HOSTS", "").split(",")
    assert read(DEBUG=True, ALLOWED_HOSTS=[""])[2] == "none.invalid"
    assert read(ALLOWED_HOSTS=["", "example.com"])[2] == "example.com"


def test_what_hubbub_says_wins_and_lists_are_taken(read):
    assert read(
        HUBBUB={
            "path": "/hub/",
            "session_check": 0,
            "drain": 3,
            "allowed_hosts": ["a.example", "b.example"],
            "allowed_origins": "*",
        }
    ) == ["/hub", 0, "a.example, b.example", "*", 3, []]


@pytest.mark.parametrize(
    ("hubbub", "problem"),
    [
        ({"brokr": "memory://"}, "HUBBUB has 'brokr', which is no setting. Did you mean 'broker'?"),
        ({"zzz": 1}, "HUBBUB has 'zzz', which is no setting."),
        ({"drain": "soon"}, "HUBBUB['drain'] is 'soon', which can't be"),
        ({"path": "/"}, "HUBBUB['path'] is '/'; it has to be a path of the hub's own"),
        ({"path": 7}, "HUBBUB['path'] is 7"),
        ({"session_check": "often"}, "HUBBUB['session_check'] is 'often'"),
        ({"allowed_origins": "example.com"}, "allowed_origins has 'example.com'"),
        ({"allowed_hosts": []}, "allowed_hosts is empty"),
        ([], "HUBBUB is a list; make it a dict."),
    ],
    ids=str,
)
def test_what_can_not_be_is_told_in_a_sentence(read, hubbub, problem):
    (told,) = read(HUBBUB=hubbub)[-1]
    assert told.startswith(problem)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make settings on top of the example's; gives the name of their module."""

    def settings(**changes):
        lines = [f"{name} = {value!r}" for name, value in changes.items()]
        text = "\n".join(["from mysite.settings import *", *lines, ""])
        (tmp_path / "more_settings.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", f"{environ['PYTHONPATH']}:{tmp_path}:{EXAMPLE}")
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "more_settings")
        return tmp_path / "db.sqlite3"

    monkeypatch.setenv("PYTHONPATH", environ.get("PYTHONPATH", ""))
    return settings


@pytest.mark.parametrize(
    ("settings", "options", "found"),
    [
        ({"HUBBUB": {"brokr": 1}}, (), ["E001", "Did you mean 'broker'?"]),
        ({"ASGI_APPLICATION": None}, (), ["W002"]),
        ({"HUBBUB": {"broker": "pigeon://"}}, (), ["E003", "There is no broker for pigeon://"]),
        ({"HUBBUB": {"workers": 2}}, (), ["E004"]),
        ({"CSRF_TRUSTED_ORIGINS": ["https://*.example.com"]}, (), ["W005", "https://*.example.com"]),
        (
            {
                "INSTALLED_APPS": [
                    "django.contrib.contenttypes",
                    "django.contrib.auth",
                    "hubbub.integrations.django",
                    "chat",
                ]
            },
            (),
            ["W006", "django.contrib.sessions"],
        ),
        (
            {"HUBBUB": {"reload": True, "allowed_origins": "*"}, "ALLOWED_HOSTS": ["*"]},
            ("--deploy",),
            ["W007", "W008", "W009", "W010"],
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list | tuple) else "settings",
)
def test_checks_find_it(project, settings, options, found):
    finished = manage(project(**settings), "check", "--tag", "hubbub", *options)
    for text in found:
        assert text in finished.stderr
    assert finished.returncode == (1 if any(text.startswith("E") for text in found) else 0)


def test_what_is_said_in_the_environment_is_not_missed(project, monkeypatch):
    monkeypatch.setenv("HUBBUB_ALLOWED_ORIGINS", "https://a.example.com")
    finished = manage(project(CSRF_TRUSTED_ORIGINS=["https://*.example.com"]), "check", "--tag", "hubbub")
    assert "W005" not in finished.stderr
    assert finished.returncode == 0


def test_settings_that_are_no_dict_at_all_are_told(project):
    settings = project(HUBBUB=7, CSRF_TRUSTED_ORIGINS=["https://*.example.com"])
    finished = manage(settings, "check", "--tag", "hubbub")
    assert "HUBBUB is a int; make it a dict." in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_example_has_nothing_to_be_found(project):
    finished = manage(project(), "check")
    assert finished.returncode == 0, finished.stderr
    assert "no issues" in finished.stdout


async def test_a_server_does_not_start_with_settings_that_can_not_be(project):
    project(HUBBUB={"drian": 1})
    with pytest.raises(NotStarted, match="Did you mean 'drain'"):
        async with Process(WAYS["hubbub serve"], ready="/live/readyz", directory=EXAMPLE):
            pass


class TestCommand:
    def test_there_has_to_be_something_to_serve(self, project):
        finished = manage(project(ASGI_APPLICATION=None), "hubbub")
        assert finished.returncode == 1
        assert "ASGI_APPLICATION is not set" in finished.stderr

    def test_an_address_that_is_none_is_refused(self, project):
        finished = manage(project(), "hubbub", "somewhere")
        assert finished.returncode == 1
        assert "'somewhere' is no port" in finished.stderr

    def test_every_setting_is_an_option(self, project):
        finished = manage(project(), "hubbub", "--help")
        for option in ("--broker", "--no-reload", "--workers", "--ping-interval", "addrport"):
            assert option in finished.stdout

    async def test_it_serves_where_it_is_told_with_the_options_it_is_given(self, template):
        command = [sys.executable, str(EXAMPLE / "manage.py"), "hubbub"]
        async with Process(
            [*command, "--host", "127.0.0.1", "--port", "{port}", "--no-reload", "--log-format", "json"],
            ready="/live/readyz",
            environment={"EXAMPLE_DATABASE": str(template)},
        ) as process:
            listening = next(line for line in process.log.splitlines() if '"listening"' in line)
            assert json.loads(listening)["app"] == "mysite.asgi:application"
