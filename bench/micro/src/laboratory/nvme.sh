# nvme.sh TRANSPORT: an NVMe over fabrics target of the kernel on a memory disk (brd), and the kernel's own
# initiator connected to it; prints the block device. Runs in the initial network namespace of a guest, the
# only one that these know. Once set up, it stays.
#
# Both ends are in one network namespace, so rules ahead of the local table send what is for the other end
# over the cable instead of through the loopback. The cable is like the laboratory's own.
set -e
transport=$1
subsystem=nqn.2025-01.netdisk.lab:$transport
state=/run/lab/nvme-$transport
[ -e "$state" ] && exec cat "$state"

# Not /sys, which here shows the network of the caller.
if ! ip link show k1 >/dev/null 2>&1; then
    ip link add k1 mtu 4200 type veth peer name k2 mtu 4200
    for number in 1 2; do
        other=$((3 - number))
        for what in accept_local=1 rp_filter=0 arp_ignore=1 arp_announce=2; do
            echo "${what#*=}" >/proc/sys/net/ipv4/conf/k$number/"${what%=*}"
        done
        ip addr add 10.78.1.$number/24 dev k$number
        ip link set k$number up
        tc qdisc add dev k$number root netem limit 100000 loss 0%
        ip rule add pref $((10 + number)) iif k$number to 10.78.1.$number lookup local
        ip rule add pref $((20 + number)) to 10.78.1.$other lookup $((100 + number))
        ip route add 10.78.1.$other dev k$number src 10.78.1.$number table $((100 + number))
    done
    echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
    ip rule add pref 100 lookup local
    ip rule del pref 0
    for number in 1 2; do rdma link add kr$number type rxe netdev k$number; done
    ping -q -c 1 -W 2 -I 10.78.1.1 10.78.1.2 >/dev/null
fi

config=/sys/kernel/config
[ -d $config/nvmet ] || mount -t configfs none $config
target=$config/nvmet/subsystems/$subsystem
mkdir "$target"
echo 1 >"$target/attr_allow_any_host"
mkdir "$target/namespaces/1"
echo /dev/ram0 >"$target/namespaces/1/device_path"
echo 1 >"$target/namespaces/1/enable"
case $transport in rdma) port=1 service=4420 ;; *) port=2 service=4421 ;; esac
mkdir $config/nvmet/ports/$port
cd $config/nvmet/ports/$port
echo ipv4 >addr_adrfam
echo "$transport" >addr_trtype
echo 10.78.1.2 >addr_traddr
echo $service >addr_trsvcid
ln -s "$target" subsystems/"$subsystem"

exec 4<>/dev/nvme-fabrics
echo "nqn=$subsystem,transport=$transport,traddr=10.78.1.2,trsvcid=$service,host_traddr=10.78.1.1" >&4
read -r answer <&4
# The namespace comes by itself, a moment after the controller.
instance=${answer#instance=}
instance=${instance%%,*}
turns=0
while :; do
    for place in /sys/class/nvme-subsystem/*/nvme*n1 /sys/class/nvme/nvme"$instance"/nvme*n1; do
        folder=${place%/*}
        [ -d "$place" ] && [ "$(cat "$folder/subsysnqn")" = "$subsystem" ] || continue
        [ -b /dev/"${place##*/}" ] || continue
        echo /dev/"${place##*/}" >"$state"
        exec cat "$state"
    done
    turns=$((turns + 1))
    [ $turns -lt 600 ] || { echo "no block device came for $answer" >&2; exit 1; }
    usleep 20000
done
