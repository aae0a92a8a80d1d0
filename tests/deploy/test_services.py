"""The examples for systemd and Kubernetes hold together: what they say fits hubbub, and each other."""

import configparser
import shlex
import shutil
import subprocess

import pytest
import typer.main
import yaml

from deploy.proxies import EXAMPLES
from hubbub import Settings
from hubbub.cli import app
from hubbub.settings import PREFIX, describe

MARGIN = 5.0
"""Seconds that a server has besides its drain, at the least."""
UNITS = ["hubbub.service", "hubbub@.service"]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((EXAMPLES / name).read_text())
    return parser


def documents() -> dict[str, dict]:
    found = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in found}


def settings_of(words: list[str]) -> dict[str, object]:
    """Return what a command `hubbub serve ...` sets; one that can't be fails."""
    group = typer.main.get_command(app)
    context = group.make_context("hubbub", list(words))
    name, command, rest = group.resolve_command(context, list(words))
    parameters = command.make_context(name, rest, parent=context).params
    return {name: value for name, value in parameters.items() if value is not None}


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong(name, tmp_path):
    # The programs are not on this machine.
    text = (EXAMPLES / name).read_text().replace("/srv/chat/.venv/bin/hubbub", "/bin/true")
    text = text.replace("/usr/bin/curl", "/bin/true").replace(
        "WorkingDirectory=/srv/chat", "WorkingDirectory=/"
    )
    path = tmp_path / name.replace("@", "@8001")
    path.write_text(text)
    finished = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=50)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_a_service_has_time_for_its_drain_and_one_signal(name):
    service = unit(name)["Service"]
    assert float(service["TimeoutStopSec"]) >= Settings().drain + MARGIN
    # To the server alone: with --workers it passes the signal on, and a second one ends a drain.
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "always"


@pytest.mark.parametrize("name", UNITS)
def test_a_service_s_command_is_one(name):
    program, *words = shlex.split(unit(name)["Service"]["ExecStart"].replace("%i", "8001"))
    assert program.endswith("/hubbub")
    assert settings_of(words) == {"target": "chat:hub", "port": 8001}


def test_a_service_for_many_is_started_when_it_is_ready():
    assert unit("hubbub@.service")["Service"]["ExecStartPost"].endswith("http://127.0.0.1:%i/readyz")


def test_the_two_services_differ_in_no_more_than_their_ports():
    one, many = unit(UNITS[0])["Service"], unit(UNITS[1])["Service"]
    differing = {name for name in {*one, *many} if one.get(name) != many.get(name)}
    assert differing == {"ExecStart", "ExecStartPost"}


class TestKubernetes:
    @pytest.fixture
    def pod(self):
        return documents()["Deployment"]["spec"]["template"]["spec"]

    @pytest.fixture
    def container(self, pod):
        [container] = pod["containers"]
        return container

    @pytest.fixture
    def environment(self, container):
        return {variable["name"]: variable["value"] for variable in container["env"]}

    def test_a_pod_has_time_to_be_left_alone_and_to_drain(self, pod, container, environment):
        name, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert name == "sleep"
        drain = float(environment["HUBBUB_DRAIN"])
        assert pod["terminationGracePeriodSeconds"] >= float(seconds) + drain + MARGIN

    def test_new_connections_stop_before_the_drain_begins(self, container):
        probe = container["readinessProbe"]
        seconds = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert probe["periodSeconds"] * probe["failureThreshold"] < seconds

    def test_the_probes_ask_what_hubbub_answers(self, container):
        [port] = container["ports"]
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}

    def test_the_command_serves_on_the_port_that_is_named(self, container):
        program, *words = container["command"]
        assert program == "hubbub"
        settings = settings_of(words)
        assert settings == {
            "target": "chat:hub",
            "host": "0.0.0.0",
            "port": container["ports"][0]["containerPort"],
        }

    def test_the_variables_are_settings(self, environment):
        by_variable = {setting.variable: setting for setting in describe()}
        for name, value in environment.items():
            assert name.startswith(PREFIX)
            by_variable[name].convert(value, source=name)
        Settings.load(environment=environment)

    def test_an_update_never_leaves_fewer_instances(self):
        spec = documents()["Deployment"]["spec"]
        assert spec["replicas"] >= 2
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}

    def test_all_speak_of_the_same_pods(self, container):
        found = documents()
        labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert found["Deployment"]["spec"]["selector"] == {"matchLabels": labels}
        assert found["PodDisruptionBudget"]["spec"]["selector"] == {"matchLabels": labels}
        service = found["Service"]["spec"]
        assert service["selector"] == labels
        assert [port["targetPort"] for port in service["ports"]] == [container["ports"][0]["name"]]
        assert "sessionAffinity" not in service

    def test_a_budget_lets_one_go_at_a_time(self):
        assert documents()["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
