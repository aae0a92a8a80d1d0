#!/bin/sh
# Prepares a clone for one purpose: demo, test, check, bench or fuzz. The Makefile runs it before each of them.
# All it makes lies in .venv, tests/peers/node_modules, benchmarks/peers/node_modules and benchmarks/peers/nginx;
# only missing Debian packages go into the system, and for nchan an empty folder in /var/lib/nginx. Servers among
# the packages are not started, neither now nor with the system.
# What is already in place is left alone, and a run that was cut short is completed by the next one.
set -eu

purpose=${1:?"say what to prepare: demo, test, check, bench or fuzz"}
cd "$(dirname "$0")/.."
root=$(pwd -P)
# Where the system's folders are; the tests of this script have some of their own.
system=${HUBBUB_SYSTEM_ROOT:-}
# Without a terminal there is nobody to type a password.
if [ -t 0 ]; then ask=; else ask=-n; fi

say() { echo "hubbub set-up: $*" >&2; }
fail() { say "$*"; exit 1; }
runs() { "$@" >/dev/null 2>&1 </dev/null; }

is_new_enough() { runs "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 or later. Name one that is."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "No Python 3.11 or later was found. Install one, or name it: make $purpose PYTHON=/path/to/python3"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        # shellcheck disable=SC2086  # no word at all when there is a terminal
        sudo $ask "$@"
    fi
}

# install_debian_packages PACKAGE...
install_debian_packages() {
    runs command -v apt-get ||
        fail "What Debian calls $* is missing here. Install it your system's way, then try again."
    as_root true 2>/dev/null ||
        fail "Missing here: $*. As root run: apt-get install $* ; then try again."
    say "Installing the Debian packages that are missing: $*. This can take a minute or two."
    # An installation that was cut short blocks apt-get until it is completed.
    if [ -n "$(dpkg --audit)" ]; then
        as_root dpkg --configure -a ||
            say "dpkg could not complete an earlier installation; trying all the same."
    fi
    as_root apt-get -qq update || say "apt-get could not refresh its package lists; trying with those it has."
    # Nothing of the system is taken away for our sake, and another apt-get at work is waited for.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends --no-remove "$@" </dev/null >/dev/null ||
        fail "apt-get could not install $*; its reason is above. Install it by hand and try again."
}

# A virtual environment is of use when its pip runs, it was made at this very path (its scripts name it), and
# it has the version asked for.
venv_is_sound() {
    grep -qsF "$root/.venv/bin/python" .venv/bin/pip && runs .venv/bin/pip --version &&
        is_new_enough .venv/bin/python || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of .venv/bin/python)" ]
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

create_venv() {
    python=$(find_python)
    # Debian ships Python without the part that puts pip into a virtual environment.
    if ! runs "$python" -c 'import ensurepip, venv'; then
        install_debian_packages "python$(version_of "$python")-venv"
        runs "$python" -c 'import ensurepip, venv' ||
            fail "$python still cannot make virtual environments. Name another: make $purpose PYTHON=..."
    fi
    say "Creating the virtual environment .venv with Python $(version_of "$python")."
    "$python" -m venv --clear .venv || fail "That failed; the reason is above."
}

pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" ||
        fail "pip could not install the packages; its reason is above. Check the network and try again."
}

# install_python_packages GROUP...: the package itself, editable, with those dependency groups
install_python_packages() {
    venv_is_sound || create_venv
    state=$(cksum <pyproject.toml)
    [ "$(cat ".venv/.$purpose-stamp" 2>/dev/null)" != "$state" ] || return 0
    say "Installing hubbub and what it needs into .venv; the first time this takes a minute or two."
    # Dependency groups need pip 25.1.
    pip_install "pip>=25.1"
    pip_install --editable . "$@"
    echo "$state" >.venv/.demo-stamp
    echo "$state" >".venv/.$purpose-stamp"
}

install_browser_and_node() {
    missing=
    # Playwright drives the browser through a program of its own, which a bare Debian lacks a library for.
    runs .venv/bin/playwright --version || missing="libatomic1"
    runs chromium --version || missing="$missing chromium"
    runs node --version || missing="$missing nodejs"
    runs npm --version || missing="$missing npm"
    runs openssl version || missing="$missing openssl"
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086  # one word for each package
    install_debian_packages $missing
    for program in .venv/bin/playwright chromium node npm; do
        runs "$program" --version || fail "$program is there but fails; see what '$program --version' says."
    done
}

# install_servers PROGRAM...: tests and benchmarks start these themselves, on free ports. What their packages would
# start takes ports that are known, and may be in use.
install_servers() {
    missing=
    for program in "$@"; do
        has_server "$program" || missing="$missing $program"
    done
    [ -n "$missing" ] || return 0
    say "Needed, but never started with the system:$missing."
    forbid_starts
    # shellcheck disable=SC2086  # one word for each package
    install_debian_packages $missing
    allow_starts
    for program in $missing; do
        has_server "$program" || fail "$program is not there after its package was installed. Install it by hand."
        keep_from_starting "$program"
    done
}

# has_server PROGRAM: also in the administrator's folders
has_server() {
    (PATH="$PATH:$system/usr/local/sbin:$system/usr/sbin:$system/sbin" && runs command -v "$1")
}

# Packages ask this program whether they may start a service, with systemd and without. One that is there already
# is somebody else's, and stays.
policy=$system/usr/sbin/policy-rc.d
mark="# hubbub's scripts/setup.sh: no service is started while it installs packages"

forbid_starts() {
    [ -e "$policy" ] || as_root sh -c "printf '#!/bin/sh\n%s\nexit 101\n' \"\$1\" >'$policy' && chmod 755 '$policy'" sh "$mark" ||
        fail "Nothing can be written to $policy, so the servers would be started. Install by hand:$missing."
    trap allow_starts EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Take it away again, on whatever way out; also one that a set-up left that was killed.
allow_starts() {
    trap - EXIT HUP INT TERM
    if grep -qsF "$mark" "$policy"; then as_root rm -f "$policy"; fi
}

# keep_from_starting PACKAGE: with the system, as its package has arranged it
keep_from_starting() {
    if runs command -v systemctl; then
        runs as_root systemctl disable "$1" || say "$1 may start with the system; see: systemctl disable $1"
    elif runs command -v update-rc.d; then
        runs as_root update-rc.d "$1" disable || say "$1 may start with the system; see: update-rc.d $1 disable"
    fi
}

# install_node_packages FOLDER: those that the lock file in it names
install_node_packages() {
    # npm ci begins by removing node_modules, so the stamp in it goes with what it vouches for.
    stamp=$1/node_modules/.hubbub-stamp
    state=$(cksum <"$1/package-lock.json")
    [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || return 0
    say "Installing the node packages of $1."
    (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null) ||
        fail "npm could not install them; its reason is above. Check the network and try again."
    mkdir -p "$1/node_modules"
    echo "$state" >"$stamp"
}

install_node() {
    missing=
    runs node --version || missing="nodejs"
    runs npm --version || missing="$missing npm"
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086  # one word for each package
    install_debian_packages $missing
    for program in node npm; do
        runs "$program" --version || fail "$program is there but fails; see what '$program --version' says."
    done
}

# nginx_runs FOLDER: it may lack a library that apt-get would have installed
nginx_runs() {
    told=$("$1/usr/sbin/nginx" -v 2>&1) || { say "nginx does not run here: $told"; return 1; }
}

# nginx and nchan are only unpacked. Installed, nginx would start with the system and take port 80.
unpack_nginx() {
    folder=benchmarks/peers/nginx
    # nchan insists on this one, whatever the configuration says. Debian's nginx has it too.
    body=/var/lib/nginx/body
    if runs "$folder/usr/sbin/nginx" -v && [ -d $body ]; then return 0; fi
    if ! runs command -v apt-get; then
        say "nginx with nchan is taken from Debian's packages, so here the benchmarks go without it."
        return 0
    fi
    say "Unpacking nginx and nchan in $folder."
    as_root apt-get -qq update || say "apt-get could not refresh its package lists; trying with those it has."
    rm -rf "$folder" "$folder.new"
    mkdir "$folder.new"
    if (
        cd "$folder.new" && apt-get -qq -o APT::Sandbox::User= download nginx libnginx-mod-nchan &&
            for package in ./*.deb; do dpkg-deb --extract "$package" . && rm "$package" || exit 1; done
    ) && nginx_runs "$folder.new" && { [ -d $body ] || as_root install -d $body; }; then
        mv "$folder.new" "$folder"
    else
        rm -rf "$folder.new"
        say "That failed; the reason is above. The benchmarks go without nchan."
    fi
}

# Two set-ups at once in one clone (make demo and make test in two terminals) take turns.
if runs command -v flock; then
    exec 9<pyproject.toml
    flock -w 900 9 || fail "Another set-up has been at work here for 15 minutes. End it and try again."
fi

case $purpose in
    demo) install_python_packages ;;
    test)
        install_python_packages --group test
        install_browser_and_node
        install_servers redis-server redis-sentinel rabbitmq-server nats-server haproxy nginx
        install_node_packages tests/peers
        ;;
    # The type checker wants to see what the tests bring along, such as pydantic.
    check) install_python_packages --group test --group check ;;
    bench)
        install_python_packages --group bench
        # In a subshell: what fails in it is the end of it alone.
        (install_node && install_node_packages benchmarks/peers) || say "The benchmarks go without ws."
        (install_servers redis-server) || say "The benchmarks go without the works that need Redis."
        unpack_nginx
        ;;
    fuzz) install_python_packages --group fuzz ;;
    *) fail "There is no set-up for '$purpose': it is demo, test, check, bench or fuzz." ;;
esac
