#!/usr/bin/env bash
# Debian packages that wheels do not bring: the venv module, and libexpat, which rasterio's wheel
# links. Installed when root, named otherwise. $PYTHON is the interpreter that is asked.
set -euo pipefail

python=${PYTHON:-python3}
missing=()
"$python" -c 'import ensurepip' 2>/dev/null ||
    missing+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
if [ "$(uname)" = Linux ]; then
    "$python" -c 'import ctypes; ctypes.CDLL("libexpat.so.1")' 2>/dev/null || missing+=(libexpat1)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
    echo "please install first: ${missing[*]}" >&2
    exit 1
fi
