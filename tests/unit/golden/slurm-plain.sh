#!/bin/sh
#SBATCH --job-name=mirai-NAME
#SBATCH --output=DIRECTORY/mirai-NAME.%j.log
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --no-requeue
export MIRAI_JOB="$SLURM_JOB_ID"
python3 -P -m mirai daemon DIRECTORY/keys.json &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
exit "$status"
