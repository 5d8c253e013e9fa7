#!/bin/sh
#BSUB -J 'mirai-NAME[1-3]'
#BSUB -o '/shared/the logs/mirai-NAME.%J.%I.log'
#BSUB -n 4
#BSUB -R 'span[hosts=1]'
#BSUB -R 'rusage[mem=8192MB]'
#BSUB -M 8192MB
#BSUB -W 1:30
#BSUB -gpu num=2:mode=shared
#BSUB -R 'select[type==X86_64]'
#BSUB -q normal
#BSUB -P p1
#BSUB -app py
#BSUB -G 'our lab'
#BSUB -B
export MIRAI_JOB="${LSB_JOBID}[${LSB_JOBINDEX}]"
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
