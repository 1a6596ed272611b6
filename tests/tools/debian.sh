#!/usr/bin/env bash
# Makes a bare Debian in a directory, once: the machine of tests/test_night.py. Nothing runs in it.
# Needs root, debootstrap and a mirror; takes two minutes and 320 MB.
set -euo pipefail
target=/var/cache/snapshots-tests/debian
suite=bookworm
packages=cron,exim4-daemon-light,nginx-light,tinyproxy,python3-requests,python3-dateutil
packages+=,ca-certificates,faketime,iproute2,tzdata
if [ "$(cat "$target/made-of" 2>/dev/null)" != "$suite $packages" ]; then
  rm -rf "$target"
  mkdir -p "$(dirname "$target")"
  debootstrap --variant=minbase --include="$packages" "$suite" "$target"
  rm -f "$target"/var/cache/apt/archives/*.deb
  echo "$suite $packages" >"$target/made-of"
fi
