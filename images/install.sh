#!/bin/sh
# install PLACE OPTION…: hash-locked packages into PLACE, which is /opt/openrs or what is copied over it, without their tests.
# Their byte code is written here, once, and trusted: the file system of a pod is read-only, and a layer's times are not the
# files'.
set -eu
place=$1
shift
[ "$place" = /opt/openrs ] || set -- --prefix "$place" "$@"
/build/tools/bin/uv pip install --quiet --python /opt/openrs/bin/python --require-hashes --no-deps --link-mode copy "$@"
find "$place/lib" -type d -name tests -prune -exec rm -r {} +
sed -i '/\/tests\//d' "$place"/lib/python3.11/site-packages/*.dist-info/RECORD
# Some packages hold examples that are no Python 3: not compiled, and no reason to stop. All of it (-f): whatever has started this
# Python before has left byte code that holds the hour of the build.
PYTHONHASHSEED=0 python3 -m compileall -q -f --invalidation-mode unchecked-hash "$place/lib" > /dev/null || true
