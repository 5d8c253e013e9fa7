batch_name = mirai-NAME
universe = vanilla
executable = /bin/sh
transfer_executable = false
arguments = "'DIRECTORY/mirai-NAME.sh'"
environment = "MIRAI_JOB=$(ClusterId).$(ProcId)"
should_transfer_files = NO
output = DIRECTORY/mirai-NAME.$(ClusterId).$(ProcId).log
error = DIRECTORY/mirai-NAME.$(ClusterId).$(ProcId).log
request_cpus = 1
periodic_remove = (JobStatus == 1 && NumJobStarts > 0) || (JobStatus == 5 && time() - EnteredCurrentStatus > 600)
queue 3

# DIRECTORY/mirai-NAME.sh:
#!/bin/sh
export MIRAI_JOB="$MIRAI_JOB"
python3 -P -m mirai daemon DIRECTORY/keys.json &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT
exit "$status"
