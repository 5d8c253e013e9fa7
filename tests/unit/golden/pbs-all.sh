#!/bin/sh
#PBS -N mirai-NAME
#PBS -J 1-3
#PBS -o '/shared/the logs/'
#PBS -S /bin/sh
#PBS -l select=1:ncpus=4:mem=8192mb:ngpus=2:host=n1
#PBS -l walltime=1:30:00
#PBS -q workq
#PBS -P p1
#PBS -A 'our lab'
#PBS -m n
export MIRAI_JOB="$PBS_JOBID"
cd "$PBS_O_WORKDIR"
exec >'/shared/the logs/mirai-NAME.'"$PBS_JOBID".log 2>&1
module load python
ulimit -c 0
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
'/opt/py 3/bin/python' -P -m mirai daemon DIRECTORY/keys.json --wall-time 5340s &
child=$!
trap 'leave' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
[ -z "$again" ] || kill "$again" 2>/dev/null
echo "it's over"
exit "$status"
