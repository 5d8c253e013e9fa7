#!/bin/sh
#BSUB -J mirai-NAME
#BSUB -o DIRECTORY/mirai-NAME.%J.log
#BSUB -n 1
#BSUB -R 'span[hosts=1]'
#BSUB -rn
export MIRAI_JOB="$LSB_JOBID"
python3 -P -m mirai daemon DIRECTORY/keys.json &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
exit "$status"
