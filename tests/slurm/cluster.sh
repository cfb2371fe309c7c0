#!/bin/bash
# A real SLURM of two nodes, n1 and n2, on this host: `cluster.sh start DIR PORT [apart]` and `cluster.sh stop DIR`.
# Debian's slurm-wlm and munge are all that it needs, and root.  Everything lies in DIR, the authentication included:
# no daemon and no file of the system's own is touched.  Use it with SLURM_CONF=DIR/slurm.conf.
#
# `apart`: each node, and the controller, is a host of its own as far as the network goes: in namespaces, with an
# address, a name and an /etc/hosts of its own, behind one switch (iproute2 makes it).  DIR/NAME.host has the process
# whose namespaces they are; users type in those of `login`.
set -euo pipefail
dir=$2

# What runs on a host of the cluster.
on() {
    local name=$1
    shift
    if [ -s "$dir/$name.host" ]; then
        nsenter --target "$(cat "$dir/$name.host")" --net --uts --mount --wd="$dir" "$@"
    else
        "$@"
    fi
}

# A host by itself: `host NAME`.
host() {
    unshare --net --uts --mount sleep infinity &
    local pid=$!
    for _ in $(seq 50); do
        [ "$(readlink "/proc/$pid/ns/mnt" 2>/dev/null)" != "$(readlink /proc/self/ns/mnt)" ] && break
        kill -0 "$pid" 2>/dev/null || refused
        sleep 0.1
    done
    echo "$pid" >"$dir/$1.host"
    on "$1" hostname "$1" || refused
    on "$1" ip link set lo up || refused
    on "$1" mount --bind "$dir/hosts" /etc/hosts || refused
}

refused() {
    echo "hosts of their own are refused here: this needs root that may make network, name and mount namespaces" \
        "(not an unprivileged container), and the program ip (apt-get install iproute2)" >&2
    exit 1
}

# Three hosts behind a switch that stands in the first one.
apart() {
    printf '%s\n' "127.0.0.1 localhost" "10.77.0.254 login" "10.77.0.1 n1" "10.77.0.2 n2" >"$dir/hosts"
    for name in login n1 n2; do
        host "$name"
    done
    on login ip link add switch type bridge || refused
    on login ip addr add 10.77.0.254/24 dev switch
    on login ip link set switch up
    for node in 1 2; do
        on login ip link add "port$node" type veth peer name eth0 netns "$(cat "$dir/n$node.host")" || refused
        on login ip link set "port$node" master switch up
        on "n$node" ip addr add "10.77.0.$node/24" dev eth0
        on "n$node" ip link set eth0 up
    done
}

start() {
    local cores memory port=$3 controller host1 host2
    cores=$(nproc)
    memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo) / 1024 * 8 / 10))
    mkdir -p "$dir"/{state,n1,n2}
    chmod 755 "$dir"
    if [ "${4:-}" = apart ]; then
        apart
        controller="login(10.77.0.254)"
        host1="NodeHostname=n1 NodeAddr=10.77.0.1"
        host2="NodeHostname=n2 NodeAddr=10.77.0.2"
    else
        controller="$(hostname -s)(127.0.0.1)"
        host1="NodeHostname=$(hostname -s) NodeAddr=127.0.0.1"
        host2=$host1
    fi
    dd if=/dev/urandom of="$dir/munge.key" bs=1024 count=1 status=none
    chmod 600 "$dir/munge.key"
    munged --force --num-threads=2 --key-file="$dir/munge.key" --socket="$dir/munge" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    # Both nodes are given all cores: two jobs run at a time, as they would on two machines.
    cat >"$dir/slurm.conf" <<CONF
ClusterName=autofit
SlurmctldHost=$controller
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
# What is submitted as urgent takes the place of what is not.
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
NodeName=n1 $host1 Port=$((port + 1)) CPUs=$cores RealMemory=$memory State=UNKNOWN
NodeName=n2 $host2 Port=$((port + 2)) CPUs=$cores RealMemory=$memory State=UNKNOWN
CONF
    export SLURM_CONF="$dir/slurm.conf"
    on login slurmctld
    on n1 slurmd -N n1
    on n2 slurmd -N n2
    for _ in $(seq 100); do
        [ "$(on login sinfo --partition=main --noheader --format=%D --states=idle 2>/dev/null)" = 2 ] && return
        sleep 0.3
    done
    tail -n 20 "$dir"/*.log >&2
    echo "the nodes did not come up" >&2
    exit 1
}

# Ends the processes with these files of pids, one after the other.
end() {
    for file in "$@"; do
        [ -s "$file" ] || continue
        local pid
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
    done
}

stop() {
    export SLURM_CONF="$dir/slurm.conf"
    on login scancel --user=root 2>/dev/null || true
    end "$dir"/{slurmd-n1,slurmd-n2,slurmctld,munged}.pid
    end "$dir"/{n1,n2,login}.host
}

"$1" "$@"
