#!/bin/sh
#SBATCH --job-name=mirai-NAME
#SBATCH --array=1-3
#SBATCH '--output=/shared/the logs/mirai-NAME.%A_%a.log'
#SBATCH --cpus-per-task=4
#SBATCH --mem=8192M
#SBATCH --time=0-01:30:00
#SBATCH --partition=debug
#SBATCH '--account=our lab'
#SBATCH --qos=high
#SBATCH '--constraint=fast|big'
#SBATCH --gpus=a100:2
#SBATCH --no-requeue
#SBATCH --mail-type=FAIL
export MIRAI_JOB="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
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
