#!/bin/sh
#$ -N mirai-NAME
#$ -o 'DIRECTORY/mirai-NAME.$JOB_ID.log'
#$ -j y
#$ -S /bin/sh
#$ -r n
#$ -cwd
export MIRAI_JOB="$JOB_ID"
python3 -P -m mirai daemon DIRECTORY/keys.json &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
exit "$status"
