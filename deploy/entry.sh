#!/bin/sh
# What a container does: obtain the weights unless they are here, then serve. Other commands are run as they are.
set -eu

# The database's password in a file: libpq would take one, but only if it belongs to us and to nobody else.
if [ -n "${LIKENESS_DATABASE_PASSWORD_FILE:-}" ]; then
  PGPASSWORD=$(cat "$LIKENESS_DATABASE_PASSWORD_FILE")
  export PGPASSWORD
fi

[ "${1:-serve}" = serve ] || exec likeness "$@"

bundle=${LIKENESS_BUNDLE:-open}
baked=/opt/weights/bundles/$bundle
case $bundle in
*/*) ;; # a folder of the operator's own
*)
  if [ -e "$baked/card.json" ]; then
    export LIKENESS_BUNDLE="$baked"
  elif [ ! -e "$LIKENESS_DATA_DIR/bundles/$bundle/card.json" ]; then
    likeness pull "$bundle" ${LIKENESS_ACCEPT_LICENSE:+--accept-license "$LIKENESS_ACCEPT_LICENSE"}
  fi
  ;;
esac
exec likeness "${@:-serve}"
