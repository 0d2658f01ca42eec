#!/bin/sh
# Makes .venv and installs the server into it, with the driver for PostgreSQL; with "dev" also what the tests need. Does nothing when it is up to date.
# Python 3.11+ is found, else brought by uv, else by apt where we may.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-}
stamp=.venv/.installed${extra:+-$extra}
wanted=$(cat pyproject.toml scripts/setup.sh | cksum)
[ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] && exit 0

good() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
# The distribution's own first, where it can make environments: built with profile-guided optimization, it was
# measured to need 12-18 % less CPU a mail than one that a version manager compiled (benchmarks/README.md).
find_python() {
    if good /usr/bin/python3 && /usr/bin/python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo /usr/bin/python3
        return
    fi
    for name in python3.13 python3.12 python3.11 python3.14 python3; do
        if command -v "$name" >/dev/null 2>&1 && good "$name"; then echo "$name"; return; fi
    done
}
apt_install() {
    if ! command -v apt-get >/dev/null 2>&1; then return 1; fi
    as_root=
    if [ "$(id -u)" != 0 ]; then
        if ! sudo -n true 2>/dev/null; then return 1; fi
        as_root="sudo -n"
    fi
    $as_root apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends "$@" >&2
}

if [ ! -x .venv/bin/python ] || ! good .venv/bin/python; then
    rm -rf .venv
    python=$(find_python)
    if command -v uv >/dev/null 2>&1; then
        uv venv -q --seed --python "${python:->=3.11}" .venv
    else
        if [ -z "$python" ]; then
            apt_install python3 python3-venv || true
            python=$(find_python)
        fi
        if [ -z "$python" ]; then
            echo "Python 3.11 or newer is needed and was not found; install it, or uv (https://docs.astral.sh/uv/)." >&2
            exit 1
        fi
        if ! "$python" -m venv .venv 2>/dev/null; then
            rm -rf .venv
            apt_install python3-venv || { echo "$python has no venv module: install python3-venv, or uv." >&2; exit 1; }
            "$python" -m venv .venv
        fi
    fi
fi
target=.[postgres${extra:+,$extra}]
if command -v uv >/dev/null 2>&1; then
    uv pip install -q --python .venv/bin/python -e "$target"
else
    .venv/bin/python -m pip install -q --disable-pip-version-check -e "$target"
fi
echo "$wanted" >"$stamp"
