# shellcheck shell=sh disable=SC2034
# What is installed, placed, enabled and restarted: one entry each, all of them here. Sourced by image/install and image/pack.

# --- Debian packages; a|b: whichever this release has ---

# what the appliance runs with
run_packages="
python3
python3-venv
libtss2-esys-3.0.2-0|libtss2-esys-3.0.2-0t64
libtss2-mu0|libtss2-mu-4.0.1-0t64
libtss2-rc0|libtss2-rc0t64
libtss2-fapi1|libtss2-fapi1t64
libtss2-tctildr0|libtss2-tctildr0t64
libtss2-tcti-device0|libtss2-tcti-device0t64
nftables
iproute2
dnsmasq-base
chrony
dbus
systemd
util-linux
procps
openssl
"

# what only the appliance runs with: a checkout's bench brings its own Bluetooth
machine_packages="
bluez
polkitd|policykit-1
"

# what the Python packages are built with, where they are not brought as wheels
build_packages="
python3-dev
gcc
libc6-dev
pkg-config
libtss2-dev
libssl-dev
"

# what the bench, the tests and image/pack use besides
bench_packages="
libtss2-tcti-swtpm0|libtss2-tcti-swtpm0t64
swtpm
swtpm-tools
tpm2-tools
iputils-ping
chromium|chromium-browser
mosquitto
rsyslog
rsyslog-openssl
udhcpc
mmdebstrap
systemd-container
"

# of these, a service of its own that must neither start now nor at the next boot: the bench starts them by hand, and the
# appliance has a unit of its own for chronyd
quiet_packages="mosquitto rsyslog chrony"

# --- units: name, whether boot starts it, and when it is restarted on an upgrade, in this order ---
# `never`: loaded once a boot. `unit`: when its own file changed. A part of the code (see `parts`): when that or its file changed.
# `version`: always.
units() {
    cat <<'LIST'
wardgate-firewall.service  boot   never
wardgate-policy.socket     boot   unit
wardgate-enforcer.socket   boot   unit
wardgate-policy.service    boot   enforcer
wardgate-confirm.service   asked  enforcer
wardgate-enforcer.service  boot   enforcer
wardgate-eventlog.service  boot   unit
wardgate-network.service   boot   version
wardgate-dhcp.service      boot   network
wardgate-ntp.service       boot   network
wardgate.service           boot   version
LIST
}

# --- parts of a version: name and what belongs to it (gateway/… and drivers/… in its Python packages, the rest in its share/) ---
parts() {
    cat <<'LIST'
enforcer gateway/__init__.py gateway/enforcer image/wardgate.nft
network gateway/network
LIST
}

# --- files: where in the source, and where on the machine ---
places() {
    units | while read -r unit _; do echo "systemd/$unit /etc/systemd/system/$unit"; done
    cat <<'LIST'
systemd/sysusers.conf /etc/sysusers.d/wardgate.conf
systemd/tmpfiles.conf /etc/tmpfiles.d/wardgate.conf
systemd/polkit.rules /etc/polkit-1/rules.d/50-wardgate.rules
systemd/sysctl.conf /etc/sysctl.d/60-wardgate.conf
systemd/udev.rules /etc/udev/rules.d/90-wardgate.rules
systemd/networkmanager.conf /etc/NetworkManager/conf.d/90-wardgate.conf
systemd/networkd.network /etc/systemd/network/05-wardgate.network
image/wardgate.nft /usr/share/wardgate/wardgate.nft
LIST
}

# programs that are linked from /usr/local/bin
commands="wardgate wardgate-policy wardgate-network"

# users and groups that sysusers.conf makes, taken away by --purge (groups of other packages are left)
own_users="wardgate wardgate-enforcer wardgate-dhcp wardgate-ntp"

# folders with configuration, keys and records: --remove keeps them, --purge empties and removes them
data_folders="/var/lib/wardgate /var/lib/wardgate-policy /var/lib/wardgate-dhcp /var/lib/wardgate-ntp /etc/wardgate"

# what units leave in /run
run_folders="/run/wardgate /run/wardgate-enforcer /run/wardgate-network"
