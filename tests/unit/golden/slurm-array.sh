#!/bin/sh
#SBATCH --job-name=mirai-NAME
#SBATCH --array=1-3
#SBATCH --output=DIRECTORY/mirai-NAME.%A_%a.log
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --no-requeue
export MIRAI_JOB="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
python3 -P -m mirai daemon DIRECTORY/keys.json &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
exit "$status"
