#!/bin/sh
#$ -N mirai-NAME
#$ -t 1-3
#$ -o '/shared/the logs/mirai-NAME.$JOB_ID.$TASK_ID.log'
#$ -j y
#$ -S /bin/sh
#$ -l mem_free=2048M
#$ -l h_rt=5400
#$ -l gpu=2
#$ -q all.q
#$ -P p1
#$ -A 'our lab'
#$ -pe threads 4
#$ -cwd
#$ -m n
export MIRAI_JOB="$JOB_ID.$SGE_TASK_ID"
module load python
ulimit -c 0
'/opt/py 3/bin/python' -P -m mirai daemon DIRECTORY/keys.json --wall-time 5340s &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
echo "it's over"
exit "$status"
