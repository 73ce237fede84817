#!/usr/bin/env bash
# Debian packages that wheels do not bring: the venv module; libexpat, which rasterio's wheel links;
# a screen that nobody sees with OpenGL in software, and the libraries that Qt's wheels link, for the
# tests of napari. Installed when root, named otherwise. $PYTHON is the interpreter that is asked.
set -euo pipefail

python=${PYTHON:-python3}
missing=()
"$python" -c 'import ensurepip' 2>/dev/null ||
    missing+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
if [ "$(uname)" = Linux ]; then
    "$python" -c 'import ctypes; ctypes.CDLL("libexpat.so.1")' 2>/dev/null || missing+=(libexpat1)
    command -v Xvfb >/dev/null || missing+=(xvfb)
    while read -r library package; do
        "$python" -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null || missing+=("$package")
    done <<'LIBRARIES'
libGL.so.1 libgl1
libEGL.so.1 libegl1
libGLX_mesa.so.0 libglx-mesa0
libdbus-1.so.3 libdbus-1-3
libfontconfig.so.1 libfontconfig1
libglib-2.0.so.0 libglib2.0-0
libX11-xcb.so.1 libx11-xcb1
libxkbcommon-x11.so.0 libxkbcommon-x11-0
libxcb-cursor.so.0 libxcb-cursor0
libxcb-icccm.so.4 libxcb-icccm4
libxcb-image.so.0 libxcb-image0
libxcb-keysyms.so.1 libxcb-keysyms1
libxcb-randr.so.0 libxcb-randr0
libxcb-render-util.so.0 libxcb-render-util0
libxcb-shape.so.0 libxcb-shape0
libxcb-sync.so.1 libxcb-sync1
libxcb-xfixes.so.0 libxcb-xfixes0
libxcb-xkb.so.1 libxcb-xkb1
LIBRARIES
    compgen -G '/usr/lib/*/dri/*_dri.so' >/dev/null || missing+=(libgl1-mesa-dri)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
    echo "please install first: ${missing[*]}" >&2
    exit 1
fi
