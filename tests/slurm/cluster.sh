#!/bin/bash
# A real SLURM of two nodes, n1 and n2, on this host: `cluster.sh start DIR` and `cluster.sh stop DIR`.
# Debian's slurm-wlm and munge are all that it needs, and root.  Everything lies in DIR, the authentication included:
# no daemon and no file of the system's own is touched.  Use it with SLURM_CONF=DIR/slurm.conf.
set -euo pipefail
dir=$2

start() {
    local host cores memory port=$3
    host=$(hostname -s)
    cores=$(nproc)
    memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo) / 1024 * 8 / 10))
    mkdir -p "$dir"/{state,n1,n2}
    chmod 755 "$dir"
    dd if=/dev/urandom of="$dir/munge.key" bs=1024 count=1 status=none
    chmod 600 "$dir/munge.key"
    munged --force --num-threads=2 --key-file="$dir/munge.key" --socket="$dir/munge" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    # Both nodes are given all cores: two jobs run at a time, as they would on two machines.
    cat >"$dir/slurm.conf" <<CONF
ClusterName=autofit
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
SlurmctldPort=$port
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerNode=$((memory / 2))
# Without a cgroup: what a job's processes have together is looked at every second, and a job over its memory is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=5
ReturnToService=2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=$cores RealMemory=$memory State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=$cores RealMemory=$memory State=UNKNOWN
CONF
    export SLURM_CONF="$dir/slurm.conf"
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format=%D --states=idle 2>/dev/null)" = 2 ] && return
        sleep 0.3
    done
    tail -n 20 "$dir"/*.log >&2
    echo "the nodes did not come up" >&2
    exit 1
}

stop() {
    export SLURM_CONF="$dir/slurm.conf"
    scancel --user=root 2>/dev/null || true
    for pid in "$dir"/slurmd-n1.pid "$dir"/slurmd-n2.pid "$dir"/slurmctld.pid "$dir"/munged.pid; do
        [ -s "$pid" ] || continue
        kill "$(cat "$pid")" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$(cat "$pid" 2>/dev/null)" 2>/dev/null || break
            sleep 0.1
        done
    done
}

"$1" "$@"
