#!/bin/sh
# apt-install SNAPSHOT PACKAGE…: packages of Debian as it was at SNAPSHOT (YYYYMMDDTHHMMSSZ), and nothing else left behind.
# With an empty SNAPSHOT from wherever the base image takes them; `openrs images build --stand-in` does that.
set -eu
snapshot=$1
shift
if [ -n "$snapshot" ]; then
    rm -f /etc/apt/sources.list.d/*
    {
        echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian/$snapshot bookworm main"
        echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian/$snapshot bookworm-updates main"
        echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian-security/$snapshot bookworm-security main"
    } > /etc/apt/sources.list
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o Acquire::Retries=3 update -qq
apt-get -o APT::Sandbox::User=root install -y -qq --no-install-recommends "$@" > /dev/null
# What differs from one installation to the next, and what nobody reads in a container.
rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /var/lib/dpkg/*-old
