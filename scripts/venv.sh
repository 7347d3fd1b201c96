# Sourced by the scripts: makes a virtual environment with this checkout in it, where it is missing or out of date.
#
#   FEATURESTORE_VENV     the environment's folder; .venv in the checkout by default
#   FEATURESTORE_PYTHON   the Python to make it with; the first one found that is new enough by default
#
# Nothing but Python 3.11 or newer is needed, and a package index for pip to ask.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${FEATURESTORE_VENV:-$root/.venv}"
[ "${venv#/}" != "$venv" ] || venv="$PWD/$venv"

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${FEATURESTORE_PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        if new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# use_venv EXTRAS: makes sure that the environment has this checkout with those extras.
use_venv() {
    local extras="$1" python stamp state
    if ! [ -x "$venv/bin/python" ]; then
        python="$(find_python)" || die "Python 3.11 or newer is needed, and none of" \
            "${FEATURESTORE_PYTHON:-python3.13 python3.12 python3.11 python3 python} is one. Install it, or name it: FEATURESTORE_PYTHON=…"
        say "making $venv with $("$python" --version)"
        "$python" -m venv "$venv" || die "$python cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)."
    fi
    # The package is installed as a link to this checkout, so only a change of its dependencies calls for another installation.
    stamp="$venv/.featurestore-$extras"
    state="$root $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
        return
    fi
    # The extra for tests has all the others in it, but for Ray, which is large.
    if [ "${extras#*ray}" = "$extras" ] && [ "$(cat "$venv/.featurestore-test" 2>/dev/null)" = "$state" ]; then
        return
    fi
    say "installing featurestore[$extras] and what it needs into $venv"
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[$extras]"
    printf '%s\n' "$state" >"$stamp"
}
