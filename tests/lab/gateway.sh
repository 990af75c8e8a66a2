#!/bin/sh
# Start script of the lab's WireGuard container: one interface, wg0, from one wg-quick like file.
# The file is /config/wg0.conf, or where linuxserver/wireguard has it, or the text of the variable
# WG_CONF. Forwarding is the business of
# whoever starts the container (--sysctl), as it is for every WireGuard container.
set -eu
file=/config/wg0.conf
[ -e "$file" ] || file=/config/wg_confs/wg0.conf
if [ -n "${WG_CONF:-}" ]; then
    umask 077
    file=/dev/shm/wg0.conf
    printf '%s\n' "$WG_CONF" >"$file"
fi

values() {
    sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$file" | tr , ' '
}

if ip link add wg0 type wireguard 2>/dev/null; then
    echo "wg0: made by the kernel"
else
    mkdir -p /dev/net /run/wireguard
    [ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200
    wireguard-go wg0 >/dev/null 2>&1
    echo "wg0: made by wireguard-go, the kernel has no WireGuard"
fi
# `wg` knows the protocol's own settings only, the rest is ours.
grep -vE '^[[:space:]]*Address' "$file" | wg setconf wg0 /dev/stdin
for address in $(values Address); do
    ip address add "$address" dev wg0
done
ip link set wg0 mtu 1420 up
for network in $(values AllowedIPs); do
    ip route replace "$network" dev wg0
done
echo "wg0: up"

trap 'exit 0' TERM INT
while :; do
    sleep 3600 &
    wait $!
done
