# shellcheck shell=sh disable=SC2015,SC2034,SC2046,SC2154
# Going: --remove takes the program and keeps configuration, keys and records; --purge takes those too, keys first. Sourced by image/install.

remove() {
    if running_systemd; then
        systemctl --quiet disable --now $(units | awk '{print $1}') 2>/dev/null || true
        say "the firewall tables stay until the next boot: devices keep what they are allowed without a lease, and nothing more"
    fi
    places | while read -r _ place; do rm -f "$root$place" "$root$place.wardgate-new"; done
    for wants in "$root"/etc/systemd/system/*.wants/wardgate*; do rm -f "$wants"; done
    places | while read -r _ place; do rmdir_unowned "$(dirname "$place")"; done
    for wants in "$root"/etc/systemd/system/*.wants; do rmdir_unowned "${wants#"$root"}"; done
    for name in $commands; do rm -f "$root/usr/local/bin/$name"; done
    rm -rf "$root$opt"
    for folder in $run_folders; do rm -rf "$root${folder:?}"; done
    ! running_systemd || { systemctl daemon-reload; systemctl --quiet reset-failed 'wardgate*' 2>/dev/null || true; }
    give_chrony_back
    [ "$mode" = purge ] ||
        say "removed; configuration is in /etc/wardgate, keys and records are in /var/lib/wardgate and /var/lib/wardgate-policy; the packages it came with stay"
}

# A folder that is empty now and belongs to no package was made for us, and so was the one above it.
rmdir_unowned() {
    [ -d "$root$1" ] && ! in_root dpkg-query -S "$1" >/dev/null 2>&1 && rmdir "$root$1" 2>/dev/null || return 0
    rmdir_unowned "$(dirname "$1")"
}

ask_for() { # ask_for WORD: no answer is no
    [ -t 0 ] || return 1
    printf 'Type "%s" to go on: ' "$1"
    read -r answer && [ "$answer" = "$1" ]
}

purge() {
    say "this destroys the keys, the inventory and the audit log of this gateway"
    [ "$yes" = 1 ] || ask_for destroy || fail "nothing was changed; run it in a terminal, or add --yes"
    ! running_systemd || systemctl --quiet stop wardgate.service 2>/dev/null || true
    # Keys first, the TPM's before the file that holds their passwords: whatever fails later, nothing can be signed in this gateway's name.
    empty_tpm
    for folder in $data_folders; do
        [ ! -d "$root$folder" ] || find "$root$folder" -type f -exec shred -u {} + 2>/dev/null || true
        rm -rf "$root${folder:?}"
    done
    remove
    for user in $own_users; do
        if in_root getent passwd "$user" >/dev/null; then in_root userdel "$user" 2>/dev/null || say "the user $user stays: something still runs as it"; fi
        if in_root getent group "$user" >/dev/null; then in_root groupdel "$user" 2>/dev/null || true; fi
    done
    if [ -z "$root" ]; then take_packages_away; rm -rf "$ledger"; fi
    say "everything that came with Wardgate is gone from this machine"
}

empty_tpm() {
    [ -e "$root/var/lib/wardgate/tpm.json" ] || return 0 # it never had keys there
    if [ -x "$root$opt/current/bin/wardgate" ] && configured; then
        in_root "$opt/current/bin/wardgate" forget --yes && return 0
        say "the TPM's keys could not be taken away (see above)" >&2
    else
        say "the program that takes the keys out of the TPM is not here any more; install it again to do that" >&2
    fi
    say "without that they stay in the TPM, useless: their passwords are destroyed now, and the TPM's owner password with them" >&2
    [ "$leave_tpm" = 1 ] || { [ "$yes" != 1 ] && ask_for "leave the TPM"; } || {
        ! running_systemd || ! configured || systemctl --quiet start wardgate.service 2>/dev/null || true
        fail "nothing was destroyed; mend the TPM and run this again, or add --leave-tpm"
    }
}
