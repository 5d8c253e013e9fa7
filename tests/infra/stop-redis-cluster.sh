#!/usr/bin/env bash
# usage: stop-redis-cluster.sh STATE_DIR
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"; . "$HERE/lib.sh"
[ -n "${1:-}" ] && [ -d "$1" ] || die "usage: ${0##*/} STATE_DIR"
state_dir "$1"
for node in node1 node2 node3 node4 node5 node6; do stop_one "$node" KILL; done
