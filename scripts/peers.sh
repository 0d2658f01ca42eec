#!/bin/sh
# Brings the real programs that tests run against: swaks, PHPMailer, Node with its packages, PostgreSQL's server and
# PgBouncer, Postfix with what it logs in by, HAProxy, Pebble (a certificate authority), Chromium, and strace and faketime for disks
# that fail and clocks that jump.
# As root or with sudo -n they are installed by apt. Elsewhere what is missing is named, and its tests are reported as
# not run; in CI (CI=true) it is an error.
set -eu
cd "$(dirname "$0")/.."
missing=
# Debian keeps the server's programs off the PATH. 15 is the oldest that is good enough.
postgres=postgres
for found in /usr/lib/postgresql/1[5-9]/bin/postgres /usr/lib/postgresql/[2-9][0-9]/bin/postgres; do
    [ ! -x "$found" ] || postgres=$found
done
sasl=libplain.so
for found in /usr/lib/*/sasl2/libplain.so; do
    [ ! -e "$found" ] || sasl=$found
done
for pair in swaks:swaks node:nodejs npm:npm curl:curl openssl:openssl php:php-cli \
    "$postgres:postgresql" pgbouncer:pgbouncer strace:strace faketime:faketime postconf:postfix "$sasl:libsasl2-modules" \
    pebble:pebble haproxy:haproxy chromium:chromium /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core \
    /usr/share/php/libphp-phpmailer/autoload.php:libphp-phpmailer; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || [ -e "${pair%%:*}" ] || [ -x "/usr/sbin/${pair%%:*}" ] || missing="$missing ${pair#*:}"
done
# swaks only recommends what it needs for TLS.
perl -MNet::SSLeay -e1 2>/dev/null || missing="$missing libnet-ssleay-perl"
if [ -n "$missing" ] && command -v apt-get >/dev/null 2>&1; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    if [ -z "$as_root" ] || sudo -n true 2>/dev/null; then
        # The tests start servers of their own, so nothing is to be started because it was installed. A machine that has a
        # policy keeps it.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap '$as_root rm -f "$policy"' EXIT
            trap 'exit 1' HUP INT TERM
            printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
            $as_root chmod 755 "$policy"
        fi
        $as_root apt-get update -q >/dev/null
        # shellcheck disable=SC2086 # a list of words
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends $missing >/dev/null
        missing=
    fi
fi
if [ -n "$missing" ]; then
    echo "Not installed, so their tests will not run:$missing" >&2
    [ "${CI:-}" != true ] || exit 1
fi
# The Node packages of the tests, at exact versions.
if command -v npm >/dev/null 2>&1; then
    wanted=$(cksum <tests/peers/node/package.json)
    if [ "$(cat .cache/node/.installed 2>/dev/null || true)" != "$wanted" ]; then
        rm -rf .cache/node && mkdir -p .cache/node
        cp tests/peers/node/package.json .cache/node/
        (cd .cache/node && npm install --silent --no-audit --no-fund --ignore-scripts)
        echo "$wanted" >.cache/node/.installed
    fi
fi
# Bounces that real servers sent: they are in the source archive of flufl.bounce, not in what is installed.
if [ ! -e .cache/bounces/flufl_bounce-6.0.0.tar.gz ] && [ -x .venv/bin/python ]; then
    mkdir -p .cache/bounces
    .venv/bin/python -m pip download -q --no-deps --no-binary flufl-bounce -d .cache/bounces flufl-bounce==6.0.0 >/dev/null ||
        echo "Not fetched, so its test will not run: the source archive of flufl-bounce" >&2
fi
