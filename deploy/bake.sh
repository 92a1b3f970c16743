#!/bin/sh
# While an image is built: put a bundle's weights into it, if one is named. BUNDLE, and the licence that is accepted.
set -eu

mkdir -p /opt/weights
[ -n "$1" ] || exit 0
likeness pull "$1" ${2:+--accept-license "$2"} --data-dir /opt/weights
rm -rf /opt/weights/downloads
# Bundles are made private to their maker; the service runs as somebody else.
chmod -R a+rX /opt/weights
