#!/bin/sh
# The quick start as one script: a cluster of three nodes on this machine, begun by one and joined by two; a virtual
# disk that fio writes and verifies over NBD while its primary moves; a fourth node; and the node that leads killed.
#
#   quickstart.sh [NETDISK [FOLDER]]      NETDISK: the program, by default from PATH; FOLDER: a new one is made
#
# Needs fio with its nbd engine for the load; without it the script says so and goes on. Everything that it starts
# ends with it. PORTS in the environment: first of 256 free ports (default 17400).
set -eu

netdisk=${1:-netdisk}
folder=${2:-$(mktemp -d "${TMPDIR:-/tmp}/netdisk-quickstart.XXXXXX")}
ports=${PORTS:-17400}
started=""
load=""
mkdir -p "$folder"
trap 'for pid in $load $started; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true' EXIT
trap 'exit 1' INT TERM

say() { printf '\n== %s\n' "$*"; }

# until COMMAND...: repeats it until it succeeds, half a minute at the most.
until_so() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || { echo "gave up waiting for: $*" >&2; exit 1; }
        sleep 0.05
    done
}

# run NAME: starts the node that lives in the folder of that name.
run() {
    "$netdisk" node run --state "$folder/$1" 2>"$folder/$1.log" &
    started="$started $!"
    eval "pid_$1=$!"
    until_so test -S "$folder/$1/admin.sock"
}

# join NAME: a token from the first node, used by a new one.
join() {
    token=$("$netdisk" cluster token --state "$folder/alpha" 2>/dev/null)
    "$netdisk" join "$token" --node "$1" --host 127.0.0.1 --state "$folder/$1"
    run "$1"
    until_so is_member "$1"
}

is_member() { "$netdisk" node list --state "$folder/alpha" | grep -Eq " $1 .* yes +yes| $1 .* no +yes"; }

say "terminal 1: a cluster begins with one node"
"$netdisk" cluster init quickstart --node alpha --host 127.0.0.1 --port-base "$ports" --state "$folder/alpha"
run alpha

say "terminals 2 and 3: two machines join"
join beta
join gamma
until_so sh -c "\"$netdisk\" node list --state \"$folder/alpha\" | grep -c ' yes *yes' | grep -q 3"
"$netdisk" node list --state "$folder/alpha"

say "a disk that alpha and beta reach, a virtual disk on it, served to programs at gamma"
"$netdisk" disk create --sparse --size 64MiB "$folder/shelf.img"
at="--state $folder/gamma"
# shellcheck disable=SC2086
{
    "$netdisk" disk add shelf --node "alpha:$folder/shelf.img" --node "beta:$folder/shelf.img" $at
    "$netdisk" vdisk create vd0 --disk shelf --size 32MiB $at
    "$netdisk" nbd set --node gamma --listen "unix:$folder/nbd.sock" $at
    until_so test -S "$folder/nbd.sock"
    "$netdisk" vdisk list $at
}

say "a load that verifies every block, through NBD"
if fio --enghelp 2>/dev/null | grep -q nbd; then
    (cd "$folder" && exec fio --name=quickstart --ioengine=nbd --uri="nbd+unix:///vd0?socket=$folder/nbd.sock" \
        --rw=randrw --bs=4k --iodepth=8 --size=8m --time_based --runtime=8 --verify=crc32c --verify_backlog=64 \
        --verify_fatal=1 >"$folder/fio.log" 2>&1) &
    load=$!
else
    echo "SKIPPED: there is no fio with an nbd engine here (Debian: apt-get install fio)"
fi

say "its primary moves from alpha to beta while the load runs"
"$netdisk" vdisk move vd0 --node beta --dry-run $at
"$netdisk" vdisk move vd0 --node beta $at
"$netdisk" vdisk list $at

say "a fourth machine joins"
join delta
"$netdisk" node list --state "$folder/alpha"

say "the node that leads is killed"
leader=$("$netdisk" status --json $at | sed -n 's/.*"leader": \([0-9]*\).*/\1/p' | head -n 1)
name=$("$netdisk" node list $at | awk -v id="$leader" '$1 == id { print $2 }')
index=$("$netdisk" status --json $at | sed -n 's/.*"applied": \([0-9]*\).*/\1/p' | head -n 1)
[ "$name" != gamma ] || name=beta
echo "it is node $leader; $name is killed by SIGKILL"
eval "kill -9 \$pid_$name"
is_out() { "$netdisk" node list $at | grep -Eq " $name .* no( |$)"; }
until_so is_out
until_so sh -c "\"$netdisk\" vdisk list $at | grep vd0 | grep -qv NOBODY"
"$netdisk" vdisk list $at
echo "what happened, in words:"
"$netdisk" watch --since "$index" --seconds 1 $at
echo "what is wrong, and what helps:"
"$netdisk" doctor $at || true

if [ -n "$load" ]; then
    say "the load ends"
    if wait "$load"; then
        load=""
        echo "every block was as it was written"
    else
        cat "$folder/fio.log"
        exit 1
    fi
fi
say "done; state and logs are in $folder"
