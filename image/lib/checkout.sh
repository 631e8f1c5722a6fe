# shellcheck shell=sh disable=SC2015,SC2034,SC2046,SC2154
# A checkout: the packages of the bench and .venv/. Sourced by image/install.

dev_packages="$run_packages $build_packages $bench_packages"

stamp_of_checkout() {
    printf '%s\n' "$here"
    { cat "$here/pyproject.toml" "$here"/image/lib/lists.sh "$here"/image/lib/checkout.sh; "$python" -V; } 2>&1 | sha256sum | cut -d' ' -f1
}

dev_ready() {
    [ -z "$(missing_packages "$dev_packages")" ] && [ -x "$here/.venv/bin/python" ] &&
        [ "$(cat "$here/.venv/.wardgate-stamp" 2>/dev/null)" = "$(stamp_of_checkout)" ]
}

install_dev() {
    exec 9<"$here" # the folder itself is the lock: two runs at once wait for each other
    flock -w 1800 9 || fail "another installation in this checkout does not end; look at its processes"
    dev_ready && return 0
    install_packages "$dev_packages"
    check_python
    venv=$here/.venv
    # Scripts in a virtual environment name its path: one that was moved is made anew.
    moved=$(sed -n 1p "$venv/.wardgate-stamp" 2>/dev/null || true)
    if [ -n "$moved" ] && [ "$moved" != "$here" ]; then rm -rf "$venv"; fi
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || "$python" -m venv --clear "$venv"
    say "installing Python packages into $venv"
    (cd "$here" && "$venv/bin/python" -m pip install -q -q --disable-pip-version-check --no-input --retries 5 -e '.[appliance,dev,hil]' 9<&-) ||
        fail "the Python packages could not be installed; mend what pip says above and run this again"
    stamp_of_checkout >"$venv/.wardgate-stamp.new"
    mv "$venv/.wardgate-stamp.new" "$venv/.wardgate-stamp"
}

check_dev() {
    [ "$(cat "$here/.venv/.wardgate-stamp" 2>/dev/null)" = "$(stamp_of_checkout)" ] && return 0
    say "missing: an up-to-date .venv"
    return 1
}
