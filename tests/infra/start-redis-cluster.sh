#!/usr/bin/env bash
# A real Redis cluster on free loopback ports, with a password: three masters, each with a replica.
# usage: start-redis-cluster.sh [STATE_DIR]    then:  . STATE_DIR/env.sh   (REDIS_CLUSTER_URL, REDISCLI_AUTH)
# A master that does not answer for a second is replaced by its replica.  Nothing is kept on disk but who is who.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"; . "$HERE/lib.sh"
need_pkgs redis-server:redis-server redis-cli:redis-tools
state_dir "${1:-}"; chmod 0700 "$STATE"
NODES=(node1 node2 node3 node4 node5 node6)
if alive node1 && [ -s "$STATE/env.sh" ]; then echo "$STATE"; exit 0; fi
pw="$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')"
addresses=(); mapfile -t ports < <(free_ports 12)
for index in "${!NODES[@]}"; do
  node="${NODES[$index]}" port="${ports[$index]}"; addresses+=("127.0.0.1:$port"); mkdir -p "$STATE/$node"
  (umask 077
  cat >"$STATE/$node.conf" <<CONF
bind 127.0.0.1
port $port
cluster-enabled yes
cluster-port ${ports[$((index + 6))]}
cluster-config-file nodes.conf
cluster-node-timeout 1000
dir $STATE/$node
requirepass $pw
masterauth $pw
repl-diskless-sync-delay 0
save ""
daemonize no
CONF
  )
  spawn "$node" redis-server "$STATE/$node.conf"
done
export REDISCLI_AUTH="$pw"
ask() { timeout 20 redis-cli -h 127.0.0.1 -p "${1#*:}" "${@:2}"; }
answers() { [ "$(ask "$1" ping)" = PONG ]; }
for address in "${addresses[@]}"; do
  wait_for 10 answers "$address" || { tail -n 20 "$STATE"/node*.log >&2; die "a redis does not answer"; }
done
timeout 60 redis-cli --cluster create "${addresses[@]}" --cluster-replicas 1 --cluster-yes >"$STATE/create.log" 2>&1 \
  || { tail -n 20 "$STATE/create.log" >&2; die "no cluster comes about"; }
agree() {
  for address in "${addresses[@]}"; do
    ask "$address" cluster info | grep -q "cluster_state:ok" || return 1
    [ "$(ask "$address" cluster nodes | grep -c slave)" = 3 ] || return 1
    ask "$address" role | head -1 | grep -q master || ask "$address" info replication | grep -q "master_link_status:up" || return 1
  done
}
wait_for 30 agree || { tail -n 20 "$STATE/create.log" >&2; die "the nodes do not agree"; }
(umask 077; printf 'export REDIS_CLUSTER_URL=%q REDISCLI_AUTH=%q\n' "redis://default:$pw@${addresses[0]}" "$pw" >"$STATE/env.sh")
echo "$STATE"
