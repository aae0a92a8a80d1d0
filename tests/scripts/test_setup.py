"""The set-up for the tests, with nothing to do for pip and npm: it installs servers and has none started."""

import signal
import stat
import time

import pytest

from clone import Clone

SERVERS = ["redis-server", "redis-sentinel", "rabbitmq-server", "nats-server", "haproxy", "nginx"]

APT_GET = """
case "$*" in *install*)
    cat "$HUBBUB_SYSTEM_ROOT/usr/sbin/policy-rc.d" > policy-meanwhile
    "$HUBBUB_SYSTEM_ROOT/usr/sbin/policy-rc.d" nginx start
    echo "$? RUNLEVEL=$RUNLEVEL $*" > installed
    for name in %s; do case "$*" in *" $name"*) cp $PROGRAM "$HUBBUB_SYSTEM_ROOT/usr/sbin/$name" ;; esac; done
    %s
esac
"""


class Set(Clone):
    def apt_get(self, *, brings: list[str] = SERVERS, then: str = "") -> None:
        self.program(
            "apt-get", APT_GET.replace("$PROGRAM", str(self.programs / "node")) % (" ".join(brings), then)
        )

    @property
    def policy(self):
        return self.system / "usr/sbin/policy-rc.d"

    def installed(self) -> str:
        return (self.root / "installed").read_text()


@pytest.fixture
def clone(tmp_path) -> Set:
    """A clone in which only the servers are missing."""
    clone = Set(tmp_path.resolve(), "test")
    (clone.system / "usr/sbin").mkdir(parents=True)
    for name in ("node", "npm", "chromium", "openssl", "dpkg"):
        clone.program(name, "")
    for name in ("chmod", "cp", "sleep", "touch"):
        clone.link(name)
    clone.write(clone.root / ".venv/bin/playwright", "")
    clone.copy("tests/peers/package-lock.json")
    clone.program("systemctl", f'echo "$*" >> {clone.root}/systemctl-log')
    return clone


def test_missing_servers_are_installed_and_none_is_started_now_or_with_the_system(clone):
    clone.apt_get()
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert "never started with the system: redis-server" in done.stderr
    answer, level, *words = clone.installed().split()
    assert (answer, level, words[-6:]) == ("101", "RUNLEVEL=1", SERVERS)
    disabled = (clone.root / "systemctl-log").read_text().splitlines()
    assert disabled == [f"disable {name}" for name in SERVERS]
    assert not clone.policy.exists()


def test_servers_that_are_there_are_left_alone(clone):
    for name in SERVERS:
        clone.write(clone.system / f"usr/sbin/{name}", "")
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert "servers" not in done.stderr


def test_only_what_is_missing_is_installed(clone):
    for name in SERVERS[1:]:
        clone.write(clone.system / f"usr/sbin/{name}", "")
    clone.apt_get()
    assert clone.set_up().returncode == 0
    assert clone.installed().split()[-1:] == SERVERS[:1]
    assert (clone.root / "systemctl-log").read_text() == "disable redis-server\n"


def test_a_policy_that_is_there_is_somebody_else_s_and_stays(clone):
    clone.write(clone.policy, "exit 104")
    clone.apt_get()
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert clone.installed().startswith("104 ")
    assert clone.policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_a_failure_leaves_no_policy_behind(clone):
    clone.apt_get(then="exit 100")
    done = clone.set_up()
    assert done.returncode == 1
    assert "apt-get could not install" in done.stderr
    assert not clone.policy.exists()


def test_a_package_without_its_server_is_told_of(clone):
    clone.apt_get(brings=SERVERS[:-1])
    done = clone.set_up()
    assert done.returncode == 1
    assert "nginx is not there after its package was installed" in done.stderr
    assert not clone.policy.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_no_policy_behind(clone, how):
    clone.apt_get(then="touch under-way; while [ ! -e go-on ]; do sleep 0.05; done")
    with clone.start() as running:
        wait_for(lambda: (clone.root / "under-way").exists())
        running.send_signal(how)
        (clone.root / "go-on").touch()
        assert running.wait(20) == 128 + how
    assert not clone.policy.exists()


def test_what_a_set_up_left_that_was_killed_the_next_one_takes_away(clone):
    clone.apt_get(then="touch under-way; while [ ! -e go-on ]; do sleep 0.05; done")
    with clone.start() as running:
        wait_for(lambda: (clone.root / "under-way").exists())
        running.kill()
        (clone.root / "go-on").touch()
        running.wait(20)
    assert clone.policy.exists()
    assert stat.S_IMODE(clone.policy.stat().st_mode) == 0o755
    for name in SERVERS:
        (clone.system / "usr/sbin" / name).unlink(missing_ok=True)
    clone.apt_get()
    done = clone.set_up()
    assert done.returncode == 0, done.stderr
    assert not clone.policy.exists()


def test_without_systemd_they_are_kept_from_starting_all_the_same(clone):
    (clone.programs / "systemctl").unlink()
    clone.program("update-rc.d", f'echo "$*" >> {clone.root}/update-log')
    clone.apt_get()
    assert clone.set_up().returncode == 0
    assert (clone.root / "update-log").read_text().splitlines() == [f"{name} disable" for name in SERVERS]


def test_without_apt_get_it_is_said_what_is_missing(clone):
    done = clone.set_up()
    assert done.returncode == 1
    assert (
        "redis-server redis-sentinel rabbitmq-server nats-server haproxy nginx is missing here" in done.stderr
    )
    assert not clone.policy.exists()


def test_the_demo_needs_none_of_them(tmp_path):
    clone = Clone(tmp_path.resolve(), "demo")
    done = clone.set_up()
    assert (done.returncode, done.stderr) == (0, "")


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
