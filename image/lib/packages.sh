# shellcheck shell=sh disable=SC2015,SC2034,SC2046,SC2154
# Debian packages: which are missing, how they come here, and how those that came for Wardgate go again. Sourced by image/install.

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }

# apt as it is set up here, or, from an offline file, with the packages of that file and nothing else.
apt_options() {
    [ -n "${unpacked:-}" ] || return 0
    printf '%s\n' -o "Dir::Etc::SourceList=$unpacked/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o "Dir::State::Lists=$unpacked/apt/lists" -o "Dir::Cache=$unpacked/apt/cache" \
        -o APT::Sandbox::User=root -o Acquire::Languages=none
}

# One line a missing package; for a|b the first that this release knows.
missing_packages() {
    for wanted in $1; do
        found='' choice=''
        for name in $(printf '%s' "$wanted" | tr '|' ' '); do
            if installed "$name"; then found=1; break; fi
            if [ -z "$choice" ] && apt-cache $(apt_options) show "$name" >/dev/null 2>&1; then choice=$name; fi
        done
        [ -n "$found" ] || printf '%s\n' "${choice:-${wanted%%|*}}"
    done
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 $(apt_options) "$@" 9<&-
}

# install_packages LIST [NOTE]: NOTE is a function that is told what came with it.
install_packages() {
    [ -n "$(missing_packages "$1")" ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "apt is missing; Wardgate installs on Debian 12/13 and Raspberry Pi OS"
    log=$(mktemp)
    if ! apt_get update >"$log" 2>&1; then
        tail -n 20 "$log" >&2; rm -f "$log"
        fail "apt-get update failed; check the network and the package sources"
    fi
    list=$(missing_packages "$1" | tr '\n' ' ')
    say "installing packages: $list"
    keep_services_quiet
    before=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | LC_ALL=C sort -u)
    # shellcheck disable=SC2086
    apt_get install --no-install-recommends $list >"$log" 2>&1 && came=0 || came=1
    let_services_be
    # What came is noted even when apt failed half-way: some of it may be here now.
    [ -z "${2:-}" ] || "$2" "$before" "$list"
    if [ $came -ne 0 ]; then
        tail -n 20 "$log" >&2; rm -f "$log"
        fail "the packages could not be installed; mend what apt says above and run this again"
    fi
    rm -f "$log"
}

# A package with a service that is not wanted (quiet_packages) neither starts it now nor at the next boot. Debian's way to say so is
# policy-rc.d (invoke-rc.d); one that is there already is left alone. On a development machine whose clock another package set (apt
# replaces it by chrony), chrony's own service takes over instead.
policy_rc=/usr/sbin/policy-rc.d
quiet=''

keep_services_quiet() {
    for name in $quiet_packages; do
        case " $list " in *" $name "*) [ "$name" = chrony ] && [ "$mode" = dev ] && sets_the_clock || quiet="$quiet $name" ;; esac
    done
    [ -n "$quiet" ] && [ ! -e "$policy_rc" ] || return 0
    printf '#!/bin/sh\n# wardgate: until image/install has ended\ncase " %s " in *" $1 "*) exit 101 ;; esac\nexit 0\n' "$quiet" |
        as_root tee "$policy_rc" >/dev/null
    as_root chmod 755 "$policy_rc"
}

sets_the_clock() { installed systemd-timesyncd || installed ntpsec || installed openntpd; }

let_services_be() {
    [ -n "$quiet" ] || return 0
    if grep -qs 'wardgate: until' "$policy_rc"; then as_root rm -f "$policy_rc"; fi
    for name in $quiet; do as_root systemctl disable -q "$name" 2>/dev/null || true; done
    quiet=''
}

check_python() {
    in_root "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python is missing or older than 3.11; use Debian 12 or newer"
}

# --- what came for Wardgate, so that --purge can take it away again ---

ledger=/var/lib/wardgate-install

note_packages() { # note_packages BEFORE ASKED
    mkdir -p "$ledger"
    after=$(mktemp) was=$(mktemp)
    printf '%s\n' "$1" >"$was"
    dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | LC_ALL=C sort -u >"$after"
    LC_ALL=C comm -23 "$was" "$after" >>"$ledger/replaced"
    LC_ALL=C comm -13 "$was" "$after" | cat - "$ledger/came" 2>/dev/null | LC_ALL=C sort -u >"$ledger/.new" || true
    mv "$ledger/.new" "$ledger/came"
    printf '%s\n' $2 | cat - "$ledger/asked" 2>/dev/null | LC_ALL=C sort -u >"$ledger/.new" || true
    mv "$ledger/.new" "$ledger/asked"
    rm -f "$after" "$was"
}

# What nothing depends on; a mere recommendation does not hold what was not there before.
removable() { apt-get -s -o APT::AutoRemove::RecommendsImportant=false -o APT::AutoRemove::SuggestsImportant=false autoremove 2>/dev/null | sed -n 's/^Remv \([^ ]*\).*/\1/p' | LC_ALL=C sort -u; }

purge_packages() {
    [ $# -gt 0 ] || return 0
    say "taking away packages that came for it: $*"
    apt_get purge "$@" >"$work/log" 2>&1 && return
    tail -n 20 "$work/log" >&2; rm -rf "$work"
    fail "the packages could not be taken away; mend what apt says above and run this again"
}

# Exactly the packages that came for Wardgate and that nothing else on this machine needs by now.
take_packages_away() {
    [ -s "$ledger/came" ] || return 0
    work=$(mktemp -d)
    removable >"$work/before"
    while read -r name; do if installed "$name"; then apt-mark -qq auto "$name" >/dev/null; fi; done <"$ledger/asked"
    removable >"$work/after"
    LC_ALL=C comm -13 "$work/before" "$work/after" | LC_ALL=C comm -12 - "$ledger/came" >"$work/gone"
    purge_packages $(cat "$work/gone")
    # apt does not let go by itself of a package that calls itself required; one that was not here and that nothing depends on goes too.
    for name in $(apt-mark showauto | LC_ALL=C sort | LC_ALL=C comm -12 - "$ledger/came" | LC_ALL=C comm -23 - "$work/before"); do
        [ "$(apt-get -s purge "$name" 2>/dev/null | sed -n 's/^Purg \([^ ]*\).*/\1/p')" != "$name" ] || purge_packages "$name"
    done
    rm -rf "$work"
    [ ! -s "$ledger/replaced" ] || say "apt replaced these packages then: $(tr '\n' ' ' <"$ledger/replaced"); apt-get install brings them back"
}
