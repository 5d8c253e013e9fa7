batch_name = mirai-NAME
executable = /bin/sh
transfer_executable = false
arguments = "'DIRECTORY/mirai-NAME.sh'"
environment = "MIRAI_JOB=$(ClusterId).$(ProcId)"
should_transfer_files = NO
output = /shared/the logs/mirai-NAME.$(ClusterId).$(ProcId).log
error = /shared/the logs/mirai-NAME.$(ClusterId).$(ProcId).log
request_cpus = 4
request_memory = 8192
request_gpus = 2
requirements = (Machine == "n1")
accounting_group = our lab
+MaxRuntime = 5400
periodic_remove = (JobStatus == 1 && NumJobStarts > 0) || (JobStatus == 5 && time() - EnteredCurrentStatus > 600) || (JobStatus == 2 && time() - JobCurrentStartDate > 5400)
priority = 5
queue 3

# DIRECTORY/mirai-NAME.sh:
#!/bin/sh
export MIRAI_JOB="$MIRAI_JOB"
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
