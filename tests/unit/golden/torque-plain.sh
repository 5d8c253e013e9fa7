#!/bin/sh
#PBS -N mirai-NAME
#PBS -o DIRECTORY/
#PBS -j oe
#PBS -S /bin/sh
#PBS -r n
#PBS -l nodes=1:ppn=1
export MIRAI_JOB="$PBS_JOBID"
cd "$PBS_O_WORKDIR"
exec >DIRECTORY/mirai-NAME."$PBS_JOBID".log 2>&1
again=
leave() {
    kill -TERM "$child" 2>/dev/null
    (
        trap 'kill "$nap" 2>/dev/null; exit' TERM
        sleep 10 &
        nap=$!
        wait "$nap"
        kill -TERM "$child" 2>/dev/null
    ) &
    again=$!
}
python3 -P -m mirai daemon DIRECTORY/keys.json &
child=$!
trap 'leave' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
[ -z "$again" ] || kill "$again" 2>/dev/null
exit "$status"
