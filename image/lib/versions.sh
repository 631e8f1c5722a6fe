# shellcheck shell=sh disable=SC2015,SC2034,SC2046,SC2154
# Versions: each in a folder of its own, whole or not there; `current` and `previous` are links that change in one step.
# What is running stays the old version until the new one is complete and tried; afterwards whichever works. Sourced by image/install.

versions=/opt/wardgate/versions
space_needed_mib=250 # an installed version takes some 90 MiB, and a compiler's output or pip's own copies as much again

target_of() { readlink "$root$opt/$1" 2>/dev/null || true; }
current() { v=$(target_of current); printf '%s' "${v##*/}"; }
whole() { [ -n "$1" ] && [ -e "$root$versions/$1/share/complete" ]; }
has_source() { running_from_installed || [ -f "$here/pyproject.toml" ]; } # or this is only the folder image/, beside an offline file
running_from_installed() { [ -e "$here/complete" ]; }

version_of_source() {
    if running_from_installed; then basename "$(dirname "$here")"; return; fi
    digest=$(cd "$here" && find pyproject.toml gateway drivers systemd image -type f ! -path '*/__pycache__/*' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-8)
    printf '%s-%s' "$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/pyproject.toml")" "$digest"
}

# Seconds since 1970: orders versions whose numbers are the same.
built_of_source() {
    if [ -n "$unpacked" ]; then manifest_says built <"$unpacked/manifest"
    elif running_from_installed; then cat "$here/built"
    else printf '%s\n' "${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || date -r "$here/pyproject.toml" +%s)}"; fi
}

point() { # point NAME VERSION: a symbolic link, changed in one step
    ln -sfn "versions/$2" "$root$opt/.$1.new" && mv -T "$root$opt/.$1.new" "$root$opt/$1"
}

enough_space() { # enough_space PATH MIB
    path=$1
    while [ ! -e "$path" ]; do path=$(dirname "$path"); done
    free=$(($(df -Pk "$path" | awk 'NR==2 {print $4}') / 1024))
    [ "$free" -ge "$2" ] || fail "the disk is full: $free MiB are free below $path, $2 MiB are needed; nothing was changed"
}

everything_in_place() { [ "$(current)" = "$1" ] && whole "$1" && [ ! -e "$root$opt/trial" ] && files_same "$1"; }

install_appliance() {
    has_source || fail "this is the installer alone; give it an offline file with --from, or run it from the whole source"
    [ -f "$here/systemd/wardgate.service" ] || fail "this copy of Wardgate is not complete; fetch it again"
    if [ -z "$root" ]; then install_packages "$(needed_packages)" note_packages; fi
    check_python
    new=$(version_of_source)
    if everything_in_place "$new"; then return 0; fi
    say "installing version $new"
    if [ -n "$unpacked" ] && [ "$(manifest_says version <"$unpacked/manifest")" != "$new" ]; then
        fail "the file says that it holds version $(manifest_says version <"$unpacked/manifest"), and holds $new; make it again with image/pack"
    fi
    whole "$new" || build_version "$new"
    [ -z "$unpacked" ] || pin_key "$unpacked"
    switch_to "$new" && came=0 || came=1
    forget_versions
    [ $came -eq 0 ] || exit 1
    say "version $new is installed; next: $(next_step)"
}

next_step() { if [ -e "$root/etc/wardgate/wardgate.toml" ]; then echo "wardgate check"; else echo "wardgate init (a new gateway), then wardgate check"; fi; }

needed_packages() { if [ -n "$unpacked" ] || [ ! -f "$here/pyproject.toml" ]; then echo "$run_packages $machine_packages"; else echo "$run_packages $machine_packages $build_packages"; fi; }

# A folder without share/complete is the leftover of a run that ended early: it is made anew.
build_version() {
    running_from_installed && fail "version $1 is not whole; install it again from its source or file"
    enough_space "$root$versions" "$space_needed_mib"
    mkdir -p "$root$versions"
    rm -rf "$root$versions/${1:?}"
    if ! put_version "$1"; then
        rm -rf "$root$versions/${1:?}"
        tidy_opt
        fail "version $1 could not be made; mend what is said above and run this again; nothing was changed"
    fi
}

put_version() {
    packages_into "$1" && share_into "$1" &&
        in_root "$versions/$1/bin/python" -I -c 'import gateway.app, gateway.check, gateway.enforcer.server, gateway.enforcer.confirm' &&
        chmod -R go-w "$root$versions/$1" && sync -f "$root$versions/$1" && : >"$root$versions/$1/share/complete" && sync -f "$root$versions/$1"
}

# An offline file brings pip itself, and exactly the wheels. From a checkout pip builds in a copy: the source stays as it is.
packages_into() {
    quietly="install -q -q --disable-pip-version-check --no-input --no-cache-dir --root-user-action ignore"
    if [ -n "$unpacked" ]; then
        in_root "$python" -m venv --without-pip "$versions/$1" &&
            in_root "$versions/$1/bin/python" "$(echo "$unpacked"/wheels/pip-*.whl)/pip" $quietly --no-index --no-deps "$unpacked"/wheels/*.whl 9<&-
        return
    fi
    in_root "$python" -m venv "$versions/$1" && mkdir -p "$root$versions/$1/source" &&
        (cd "$here" && cp -R pyproject.toml README.md gateway drivers "$root$versions/$1/source/") &&
        in_root "$versions/$1/bin/python" -m pip $quietly --retries 5 "$versions/$1/source[appliance]" 9<&- && rm -rf "$root$versions/$1/source"
}

share_into() {
    share=$root$versions/$1/share
    mkdir -p "$share" && cp -R "$here/systemd" "$here/image" "$share/" && built_of_source >"$share/built"
}

# --- the switch: a trial until the new version has shown that it works ---

switch_to() {
    to=$1 from=$(current) older=$(target_of previous)
    if [ -s "$root$opt/trial" ]; then from=$(cat "$root$opt/trial"); fi # a run before this one ended in the middle
    [ "$from" != "$to" ] && whole "$from" || from=''
    well_before='' daemon_wanted=''
    if [ -z "$from" ] || daemon_up; then daemon_wanted=1; fi
    if [ -z "$from" ] || works; then well_before=1; fi
    trap '' HUP INT TERM # a lost connection must not leave half a switch
    take_up "$from" "$to" && came=0 || came=1
    if [ $came -ne 0 ] && [ -n "$from" ] && [ -n "$well_before" ]; then
        if take_back "$from" "$to"; then say "version $to does not work here; $from is running again; look at 'journalctl -u wardgate'" >&2
        else say "version $to does not work here and $from did not start again; look at 'journalctl -u wardgate', then run --rollback" >&2; fi
    elif [ $came -ne 0 ]; then
        say "version $to is in place but does not work; look at 'journalctl -u wardgate'${from:+; neither did $from before it}" >&2
    fi
    rm -f "$root$opt/trial"
    trap - HUP INT TERM
    return $came
}

take_up() { # take_up OLD NEW: fails when NEW does not work
    printf '%s\n' "$1" >"$root$opt/.trial.new" && mv "$root$opt/.trial.new" "$root$opt/trial" &&
        { [ -z "$1" ] || point previous "$1"; } && point current "$2" && put_files "$2" && sync -f "$root$opt" && settle_units "$1" "$2" && works_soon
}

take_back() { # take_back OLD NEW: needs no room on the disk where NEW had not changed anything yet
    [ "$(current)" = "$1" ] || point current "$1" || return 1
    if [ -z "$older" ]; then rm -f "$root$opt/previous"; elif [ "$(target_of previous)" != "$older" ]; then ln -sfn "$older" "$root$opt/previous"; fi
    put_files "$1" && settle_units "$2" "$1" && works_soon
}

# A version is kept while it is current or previous, or while something still runs from it.
forget_versions() {
    for folder in "$root$versions"/*; do
        name=${folder##*/}
        [ -d "$folder" ] && [ "versions/$name" != "$(target_of current)" ] && [ "versions/$name" != "$(target_of previous)" ] || continue
        [ -z "$root" ] && grep -lqs "$versions/$name/" /proc/[0-9]*/cmdline && continue
        rm -rf "$folder"
    done
}

rollback() {
    back=$(target_of previous)
    back=${back##*/}
    whole "$back" || fail "there is no version before this one; install the one you want"
    now=$(current)
    switch_to "$back" || exit 1
    say "back to version $back; $now is kept, --rollback again returns to it"
}

tidy_opt() { rmdir "$root$versions" "$root$opt" 2>/dev/null || true; }
