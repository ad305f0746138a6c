# apt-get install of local packages; a trigger of one is fired by the other.
package() { # NAME VERSION CONTROL-LINES...
    mkdir -p "$1/DEBIAN"
    { printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: a test\n' "$1" "$2"; shift 2; printf '%s\n' "$@"; } >"$1/DEBIAN/control"
}
package watcher 1.0
mkdir -p watcher/usr/share/watched
echo 'interest-noawait /usr/share/watched' >watcher/DEBIAN/triggers
cat >watcher/DEBIAN/postinst <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = triggered ]; then ls /usr/share/watched >/var/lib/watcher.seen; fi
SCRIPT
chmod 755 watcher/DEBIAN/postinst
package feeder 2.0 'Depends: watcher (>= 1.0)'
mkdir -p feeder/usr/share/watched feeder/etc
echo data >feeder/usr/share/watched/fed
echo setting >feeder/etc/feeder.conf
echo /etc/feeder.conf >feeder/DEBIAN/conffiles
for name in watcher feeder; do dpkg-deb --root-owner-group --build "$name" "$name.deb"; done
chmod 755 .
export DEBIAN_FRONTEND=noninteractive
apt-get install -y ./watcher.deb
apt-get install -y ./feeder.deb
grep -q fed /var/lib/watcher.seen
dpkg -V watcher feeder
dpkg-query -W -f '${Status} ${Version}\n' feeder | grep -qx 'install ok installed 2.0'
apt-get remove -y --purge feeder
test ! -e /etc/feeder.conf
test ! -e /usr/share/watched/fed
dpkg --audit
