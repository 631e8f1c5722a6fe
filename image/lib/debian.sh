# shellcheck shell=sh disable=SC2154
# Where Debian's packages come from, as this machine's own apt is set up. Sourced by image/pack; `sh image/lib/debian.sh SUITE` prints it.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# One-line sources of Debian (or Raspberry Pi OS) for a suite, from what apt knows here; another suite of the same archive by its name.
debian_sources() {
    apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)' 'Created-By: Packages' | LC_ALL=C sort -u |
        awk -F'|' -v suite="$1" -v keyring="$keyring" '
            $1 ~ /^(Debian|Raspbian|Raspberry Pi Foundation)$/ && $4 == "main" {
                split($2, part, "-"); name = $2; sub(/^[a-z]+/, suite, name)
                line = "deb [signed-by=" keyring "] " $3 " " name " " $4
                if (!(line in seen)) { seen[line] = 1; print line }
            }'
}

case ${0##*/} in debian.sh) debian_sources "$1" ;; esac
