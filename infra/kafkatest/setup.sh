#!/bin/sh
# Copies Apache Kafka's jars below this folder, once per pom. Maven is not asked again while the stamp carries the
# pom's hash, so that every later `make test-kafka` needs neither Maven nor a network.
set -eu

cd "$(dirname "$0")"
stamp=jars/.nido-setup
hash="$(sha256sum pom.xml | cut -d ' ' -f 1)"

if ! java -version >/dev/null 2>&1; then
	echo "setup: the brokers need Java 17 or later, and there is no \`java\`" >&2
	exit 1
fi
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$hash" ] && ls jars/kafka_2.13-*.jar >/dev/null 2>&1; then
	exit 0
fi
echo "setup: fetching Apache Kafka through Maven (about 45 MB)"
rm -rf jars jars.new
mvn --batch-mode --quiet dependency:copy-dependencies -DoutputDirectory=jars.new
if ! ls jars.new/kafka_2.13-*.jar >/dev/null 2>&1; then
	echo "setup: Maven ended well but Kafka is not there" >&2
	exit 1
fi
echo "$hash" >jars.new/.nido-setup
mv jars.new jars
