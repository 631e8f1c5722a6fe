# shellcheck shell=sh disable=SC2015,SC2034,SC2046,SC2154
# One signed offline file, made by image/pack: checked before anything in it is unpacked, and unpacked before anything in it runs.
#
#   line 1    wardgate-offline-1 BYTES SIGNATURE      (length of the manifest; Ed25519 over the manifest, in hex)
#   manifest  key, version, built, debian, architecture, python, payload BYTES SHA256, then one `file SHA256 BYTES NAME` each
#   payload   a tar of exactly these files, to the last byte
#
# Each byte is covered: a changed one, one more or one less is refused. Sourced by image/install and image/pack.

release_key=/etc/wardgate/release-key.pem
magic=wardgate-offline-1
manifest_limit=1048576
spki_prefix=302a300506032b6570032100 # SubjectPublicKeyInfo of an Ed25519 key, but for its 32 bytes (RFC 8410, 4)

manifest_says() { sed -n "s/^$1 //p" | head -n 1; }
hex_of() { od -An -v -tx1 | tr -d ' \n'; }
from_hex() { # octal escapes: all that a POSIX printf knows
    # shellcheck disable=SC2059
    fold -w 2 | while read -r byte || [ -n "$byte" ]; do printf "\\$(printf '%03o' "0x$byte")"; done
}
key_hex() { openssl pkey -pubin -in "$1" -outform DER 2>/dev/null | hex_of | sed -n "s/^$spki_prefix\([0-9a-f]\{64\}\)\$/\1/p"; }
fingerprint() { printf '%s' "$1" | from_hex | sha256sum | cut -c1-32; }

# check_file FILE FOLDER [KEY-HEX]: leaves FOLDER/manifest and FOLDER/payload.tar, both checked; needs nothing but openssl and coreutils.
check_file() {
    file=$1 folder=$2 trusted=${3:-}
    [ -f "$file" ] && [ -r "$file" ] || fail "there is no file $file; give the file that image/pack made"
    head -c 256 "$file" | head -n 1 | tr -d '\000' >"$folder/line"
    grep -Eqx "$magic [1-9][0-9]{0,6} [0-9a-f]{128}" "$folder/line" ||
        fail "$file is no offline file of Wardgate, or its beginning is damaged; fetch it again"
    length=$(cut -d' ' -f2 "$folder/line")
    [ "$length" -le $manifest_limit ] || fail "$file is damaged: its list is too long; fetch it again"
    skip=$(wc -c <"$folder/line")
    tail -c +$((skip + 1)) "$file" | head -c "$length" >"$folder/manifest"
    [ "$(wc -c <"$folder/manifest")" -eq "$length" ] || fail "$file is cut short; fetch it again"
    key=$(manifest_says key <"$folder/manifest")
    printf '%s' "$key" | grep -Eqx '[0-9a-f]{64}' || fail "$file names no key; fetch it again"
    [ -z "$trusted" ] || [ "$key" = "$trusted" ] ||
        fail "$file is signed by another key ($(fingerprint "$key")) than the one trusted here ($(fingerprint "$trusted")); nothing of it was used"
    cut -d' ' -f3 "$folder/line" | tr -d '\n' | from_hex >"$folder/signature"
    printf '%s%s' "$spki_prefix" "$key" | from_hex >"$folder/key.der"
    openssl pkeyutl -verify -pubin -inkey "$folder/key.der" -keyform DER -rawin -in "$folder/manifest" -sigfile "$folder/signature" >/dev/null 2>&1 ||
        fail "the signature of $file is wrong: it was changed after it was signed; fetch it again"
    manifest_says version <"$folder/manifest" | grep -Eqx '[0-9A-Za-z][0-9A-Za-z.+~-]*' || fail "$file names no version; make it again with image/pack"
    manifest_says built <"$folder/manifest" | grep -Eqx '[0-9]{1,11}' || fail "$file does not say when it was built; make it again with image/pack"
    check_payload
}

# From here on the manifest is what the key's owner signed; names are checked all the same.
check_payload() {
    if grep -Evq '^(key|version|built|debian|architecture|python|payload|file) ' "$folder/manifest"; then fail "$file has no proper list; make it again with image/pack"; fi
    set -- $(manifest_says payload <"$folder/manifest")
    printf '%s %s' "${1:-}" "${2:-}" | grep -Eqx '[1-9][0-9]{0,10} [0-9a-f]{64}' || fail "$file has no proper list; make it again with image/pack"
    whole=$(wc -c <"$file")
    [ "$whole" -ge $((skip + length + $1)) ] || fail "$file is cut short; fetch it again"
    [ "$whole" -eq $((skip + length + $1)) ] || fail "$file is longer than what was signed; fetch it again"
    enough_space "$folder" $((2 * $1 / 1048576 + 64))
    tail -c +$((skip + length + 1)) "$file" | head -c "$1" >"$folder/payload.tar" || fail "$file cannot be copied: is the disk full? nothing was changed"
    [ "$(sha256sum <"$folder/payload.tar" | cut -d' ' -f1)" = "$2" ] ||
        fail "$file is damaged: what was signed is not what is in it; fetch it again"
    if sed -n 's/^file //p' "$folder/manifest" | grep -Evq '^[0-9a-f]{64} [0-9]+ [A-Za-z0-9_][A-Za-z0-9_.+~:%!,=@-]*(/[A-Za-z0-9_][A-Za-z0-9_.+~:%!,=@-]*)*$'; then
        fail "$file names a file outside its own folder; nothing of it was used"
    fi
    sed -n 's/^file [0-9a-f]* [0-9]* //p' "$folder/manifest" >"$folder/names"
    tar -tf "$folder/payload.tar" >"$folder/members" 2>/dev/null && cmp -s "$folder/names" "$folder/members" ||
        fail "$file holds other files than its list says; nothing of it was used"
    if LC_ALL=C tar -tvf "$folder/payload.tar" | grep -vq '^-'; then fail "$file holds something that is no plain file; nothing of it was used"; fi
}

unpack_file() { # unpack_file FOLDER: into FOLDER/, then each file once more against the list
    tar -C "$1" -xf "$1/payload.tar" --no-same-owner --no-same-permissions --touch || fail "the file cannot be unpacked: is the disk full? nothing was changed"
    rm -f "$1/payload.tar"
    sed -n 's/^file \([0-9a-f]*\) [0-9]* /\1  /p' "$1/manifest" >"$1/sums"
    (cd "$1" && sha256sum --status -c sums) || fail "what was unpacked is not what was signed; is the disk damaged? nothing was changed"
}

# --- installing from it ---

trusted_key() {
    if [ -e "$root$release_key" ]; then
        pinned=$(key_hex "$root$release_key")
        [ -n "$pinned" ] || fail "$release_key is no Ed25519 public key; put the right one back"
        if [ -n "$key_file" ] && [ "$(key_hex "$key_file")" != "$pinned" ]; then
            fail "$key_file is another key than the one trusted here since the first installation; if the change is meant, remove $release_key and give --key again"
        fi
        printf '%s' "$pinned"
    elif [ -n "$key_file" ]; then
        given=$(key_hex "$key_file")
        [ -n "$given" ] || fail "$key_file is no Ed25519 public key (PEM); ask whoever made the file for it"
        printf '%s' "$given"
    fi
}

fits_here() {
    arch=$(dpkg --print-architecture) release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    [ "$(manifest_says architecture <"$1")" = "$arch" ] && [ "$(manifest_says debian <"$1")" = "$release" ] ||
        fail "$from_file is for Debian $(manifest_says debian <"$1") on $(manifest_says architecture <"$1"); this machine is $release on $arch"
}

# Older is refused: an old file with a known hole is signed as well as a new one.
not_older() {
    here_now=$(current)
    whole "$here_now" || return 0
    old_built=$(cat "$root$versions/$here_now/share/built") new_built=$(manifest_says built <"$1") new=$(manifest_says version <"$1")
    [ "$new" != "$here_now" ] || return 0
    a=${here_now%-*} b=${new%-*}
    if [ "$a" = "$b" ]; then [ "$new_built" -ge "$old_built" ] && return 0
    elif [ "$(printf '%s\n%s\n' "$a" "$b" | sort -V | tail -n 1)" = "$b" ]; then return 0; fi
    [ "$downgrade" = 1 ] || fail "$from_file holds version $new, which is older than $here_now; add --allow-downgrade if that is meant; nothing was changed"
}

install_from() {
    command -v openssl >/dev/null 2>&1 || fail "openssl is missing, and nothing is unpacked unchecked; apt-get install openssl"
    rm -rf "$root$opt"/incoming.*
    enough_space "$root$opt" 64
    mkdir -p "$root$opt"
    incoming=$(mktemp -d "$root$opt/incoming.XXXXXX") || fail "$opt cannot be written; nothing was changed"
    trap 'rm -rf "$incoming"; tidy_opt' EXIT
    trap 'exit 1' HUP INT TERM
    trusted=$(trusted_key) || exit 1
    check_file "$from_file" "$incoming" "$trusted"
    fits_here "$incoming/manifest"
    not_older "$incoming/manifest"
    if [ -n "$check" ]; then
        say "$from_file is whole: version $(manifest_says version <"$incoming/manifest"), signed by $(fingerprint "$key")$([ -n "$trusted" ] || echo ', a key that is not trusted here yet')"
        return 0
    fi
    if [ -z "$trusted" ]; then
        say "no key is trusted here yet: the key that signed this file, $(fingerprint "$key"), is trusted from now on; compare it with what its maker says"
    fi
    if everything_in_place "$(manifest_says version <"$incoming/manifest")"; then pin_key "$incoming"; return 0; fi
    unpack_file "$incoming"
    mkdir -p "$incoming/apt/lists/partial" "$incoming/apt/cache/archives/partial"
    printf 'deb [trusted=yes] file:%s/debs ./\n' "$incoming" >"$incoming/apt/sources.list"
    # The new version installs itself: it knows its own packages and units.
    sh "$incoming/tree/image/install" --unpacked "$incoming"
}

pin_key() { # pin_key FOLDER: the key that a checked file was signed with
    [ ! -e "$root$release_key" ] || return 0
    mkdir -p "$root/etc/wardgate"
    openssl pkey -pubin -inform DER -in "$1/key.der" -out "$root$release_key.new" && mv "$root$release_key.new" "$root$release_key"
}
