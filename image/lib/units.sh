# shellcheck shell=sh disable=SC2015,SC2034,SC2046,SC2154
# Files on the machine and units: put where they belong, restarted only where something changed, in the order that costs no
# packet: leases outlive a restart under 10 s, and the tables are never flushed. Sourced by image/install.

settle_s=60 # the daemon says that it is ready within 3 s; a slow machine with a slow TPM gets this long

in_root() { if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi; }
running_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
configured() { [ -e "$root/etc/wardgate/wardgate.toml" ]; }
source_file() { printf '%s' "$root$versions/$1/share/$2"; }

files_same() {
    places | while read -r file place; do
        cmp -s "$(source_file "$1" "$file")" "$root$place" || { echo differs; break; }
    done | grep -q . && return 1
    for name in $commands; do [ "$(readlink "$root/usr/local/bin/$name")" = "$opt/current/bin/$name" ] || return 1; done
    return 0
}

place_file() { # replaced in one step, or not at all; one that is the same is not touched
    cmp -s "$1" "$root$2" && return 0
    install -D -m 0644 "$1" "$root$2.wardgate-new" && mv -f "$root$2.wardgate-new" "$root$2"
}

put_files() {
    for pair in $(places | tr ' ' :); do
        place_file "$(source_file "$1" "${pair%%:*}")" "${pair#*:}" || { rm -f "$root${pair#*:}.wardgate-new"; return 1; }
    done
    mkdir -p "$root/usr/local/bin" "$root/etc/wardgate/profiles" || return 1
    for name in $commands; do
        [ "$(readlink "$root/usr/local/bin/$name")" = "$opt/current/bin/$name" ] || ln -sfn "$opt/current/bin/$name" "$root/usr/local/bin/$name" || return 1
    done
    for profile in "$root$versions/$1"/share/image/profiles/*.toml; do
        [ ! -e "$profile" ] || [ -e "$root/etc/wardgate/profiles/${profile##*/}" ] || install -m 0644 "$profile" "$root/etc/wardgate/profiles/" || return 1
    done
    made=$(in_root systemd-sysusers wardgate.conf 2>&1 && in_root systemd-tmpfiles --create wardgate.conf 2>&1) || { printf '%s\n' "$made" >&2; return 1; }
    in_root systemctl --quiet enable $(units | awk '$2 == "boot" {print $1}')
}

# wardgate-ntp starts chronyd with a configuration of its own; without Wardgate the clock is chrony's own service's again.
quiet_chrony() { in_root systemctl --quiet disable chrony.service 2>/dev/null || true; }
give_chrony_back() {
    [ -e "$root/lib/systemd/system/chrony.service" ] || return 0
    in_root systemctl --quiet enable chrony.service 2>/dev/null || true
    ! running_systemd || systemctl --quiet start chrony.service 2>/dev/null || say "chrony does not start; see 'journalctl -u chrony'"
}

# --- what changed between two versions ---

site_of() { for path in "$root$versions/$1"/lib/python3*/site-packages; do printf '%s' "$path"; done; }

part_same() { # part_same PART OLD NEW
    for path in $(parts | awk -v part="$1" '$1 == part {for (i = 2; i <= NF; i++) print $i}'); do
        case $path in
            gateway* | drivers*) a=$(site_of "$2")/$path b=$(site_of "$3")/$path ;;
            *) a=$(source_file "$2" "$path") b=$(source_file "$3" "$path") ;;
        esac
        diff -rq -x __pycache__ "$a" "$b" >/dev/null 2>&1 || return 1
    done
}

changed_units() { # changed_units OLD NEW: which to restart, in order; OLD empty: all that boot starts
    units | while read -r unit _ when; do
        case $when in
            never) continue ;;
            version) echo "$unit"; continue ;;
        esac
        if [ -z "$1" ] || ! cmp -s "$(source_file "$1" "systemd/$unit")" "$(source_file "$2" "systemd/$unit")"; then echo "$unit"
        elif [ "$when" != unit ] && ! part_same "$when" "$1" "$2"; then echo "$unit"; fi
    done
}

# --- the running system ---

settle_units() { # settle_units OLD NEW
    running_systemd || return 0
    systemctl daemon-reload || return 1
    sysctl --quiet --load=/etc/sysctl.d/60-wardgate.conf || true
    configured || return 0 # a new gateway: `wardgate init` comes first
    # The static rules first, then who grants, then who decides.
    systemctl start wardgate-firewall.service || return 1
    changed=$(changed_units "$1" "$2")
    sockets=$(printf '%s\n' "$changed" | grep '\.socket$' || true)
    if [ -n "$sockets" ]; then
        # A socket is made anew only while its service is down.
        # shellcheck disable=SC2086
        systemctl restart $sockets $(printf '%s\n' "$changed" | grep -E '^wardgate-(policy|enforcer)\.service$') || return 1
    fi
    for unit in $changed; do
        case $unit in
            *.socket) ;;
            # Cards that carry somebody's traffic now are handed over at the next boot, not under their feet: then this only says so.
            wardgate-network.service) systemctl restart "$unit" || say "the ward's network is not complete: see 'journalctl -u wardgate-network'" ;;
            wardgate.service) [ -z "$daemon_wanted" ] || systemctl restart "$unit" || return 1 ;;
            *) if units | grep -Eq "^$unit +asked"; then systemctl try-restart "$unit"; else systemctl restart "$unit"; fi || return 1 ;;
        esac
    done
}

daemon_up() { ! running_systemd || ! systemctl show -p ActiveState --value wardgate.service 2>/dev/null | grep -qx inactive; }

# The daemon answers: well, degraded or with something cut; how the ward is doing is not the installer's business.
works() {
    running_systemd && configured && [ -n "${daemon_wanted-1}" ] || return 0
    systemctl -q is-active wardgate.service wardgate-enforcer.service wardgate-firewall.service || return 1
    timeout 20 "$opt/current/bin/wardgate" status >/dev/null 2>&1 && code=0 || code=$?
    [ $code -eq 0 ] || [ $code -eq 10 ] || [ $code -eq 11 ]
}

# Works, and still does without having been restarted a few seconds later.
works_soon() {
    running_systemd && configured && [ -n "$daemon_wanted" ] || return 0
    tries=0
    until works; do
        tries=$((tries + 1))
        [ $tries -lt $settle_s ] || return 1
        sleep 1
    done
    restarts=$(systemctl show -p NRestarts --value wardgate.service wardgate-enforcer.service)
    sleep 3
    works && [ "$restarts" = "$(systemctl show -p NRestarts --value wardgate.service wardgate-enforcer.service)" ]
}
