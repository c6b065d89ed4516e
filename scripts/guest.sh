#!/usr/bin/env bash
# Boots Debian's stock kernel in QEMU (software emulation) over a read-only view of this machine's root, and runs one
# command there as root, in this directory. Its output appears here as it comes; its exit status is ours.
#   scripts/guest.sh [-m MEGABYTES] [-t SECONDS] [-o FOLDER] -- COMMAND [ARGUMENT ...]
# FOLDER appears as /out in the guest, writable. The kernel is that of scripts/prepare.sh, which has to have run; or, with
# GUEST_KERNEL=RELEASE, that of another Debian release, as scripts/kernel.sh unpacked it.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd -P)
memory=3072 limit=600 out=''
kernels=$project/.cache/kernel${GUEST_KERNEL:+s/$GUEST_KERNEL}
while [ $# -gt 0 ]; do
  case $1 in
    -m) memory=$2; shift 2 ;;
    -t) limit=$2; shift 2 ;;
    -o) out=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "guest.sh: unknown option $1" >&2; exit 2 ;;
  esac
done
[ $# -gt 0 ] || { echo 'guest.sh: no command' >&2; exit 2; }

kernel=$(find "$kernels/boot" -name 'vmlinuz-*' 2>/dev/null | sort -V | tail -1) || true
[ -n "$kernel" ] || { echo "guest.sh: no kernel in $kernels; run scripts/prepare.sh, or scripts/kernel.sh" >&2; exit 2; }
version=${kernel##*/vmlinuz-}
modules=$kernels/lib/modules/$version

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "$out" ] || out=$work/out
mkdir -p "$out" "$work/root"/{bin,mods,proc,dev,lower,rw,new}

cp "$(command -v busybox)" "$work/root/bin/busybox"
count=0
for module in 9p 9pnet_virtio virtio_pci virtio_console overlay; do
  modprobe -d "$kernels" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
  count=$((count + 1))
  cp "$file" "$work/root/mods/$(printf %02d $count)-${file##*/}"
done

cat > "$work/root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /mods/*; do $b insmod $module; done
options=trans=virtio,version=9p2000.L,cache=loose,msize=524288
$b mount -t 9p -o ro,$options hostroot /lower || $b poweroff -f
$b mount -t tmpfs -o size=60% rw /rw
$b mkdir -p /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new || $b poweroff -f
$b mkdir -p /new/out
$b mount -t 9p -o rw,$options out /new/out
$b mount --move /dev /new/dev
$b umount /proc
exec $b switch_root /new /bin/bash /out/.guest-init
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc 2>/dev/null | gzip -1) > "$work/initrd.gz"

{
  printf '#!/bin/bash\n'
  printf 'export PATH=%q:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 CI=%q\n' \
    "$project/node_modules/.bin" "${CI:-}"
  printf 'project=%q modules=%q version=%q\n' "$project" "$modules" "$version"
  cat <<'GUEST'
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
rm -rf "/lib/modules/$version"
ln -s "$modules" "/lib/modules/$version"
# Copied up once: over 9p each file that is opened takes milliseconds, and each tool opens some; a tool starts in half the time.
{
  printf '%s\n' /etc/services /etc/protocols /etc/nsswitch.conf /etc/ld.so.cache "$project"/dist/*.cjs
  for tool in sh ip ipset ipvsadm iptables-nft iptables-legacy nft conntrack sysctl; do
    file=$(readlink -f "$(command -v "$tool")") && echo "$file" && ldd "$file" | awk '/\// { print $(NF - 1) }' | xargs readlink -f
  done
} 2> /dev/null | sort -u | xargs touch -c
hostname vm1
ip link set lo up
# Under emulation V8 breaks now and then where it compiles WebAssembly anew (it->second.Size() > offset, in
# Runtime_WasmTriggerTierUp), of which Node has some to read CommonJS modules with. This is for what is started by its name.
mkdir /run/bin
printf '#!/bin/sh\nexec "%s" --liftoff-only "$@"\n' "$(command -v node)" > /run/bin/node
chmod +x /run/bin/node
PATH=/run/bin:$PATH
cd "$project"
# The port's number depends on what else is on the bus.
for _ in $(seq 50); do
  port=$(echo /dev/vport*p1)
  [ -c "$port" ] && break
  sleep 0.1
done
exec > "$port" 2>&1
GUEST
  printf '%q ' "$@"
  printf '\necho $? > /out/.guest-status\nsync\npoweroff -f > /dev/null 2>&1\n'
} > "$out/.guest-init"
rm -f "$out/.guest-status"

# What emulation makes dear is left out: a string instruction is one loop per byte (erms, fsrm), every other address that a
# program is loaded to is translated anew (norandmaps), and a clock that is a device is asked for with a lock held; QEMU keeps
# the processors' own counters in step, which the kernel does not believe by itself (tsc=reliable).
processor=max,pku=off,erms=off,fsrm=off,smap=off,smep=off,la57=off,umip=off
parameters='console=ttyS0 panic=-1 quiet mitigations=off loglevel=3 norandmaps tsc=reliable clocksource=tsc'

# A named pipe carries the output here while it is written.
mkfifo "$work/output"
cat "$work/output" &
reader=$!
timeout -k 5 "$limit" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu "$processor" -smp 2 -m "$memory" \
  -nographic -no-reboot -nic none -kernel "$kernel" -initrd "$work/initrd.gz" \
  -virtfs local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap \
  -virtfs local,path="$out",mount_tag=out,security_model=none \
  -device virtio-serial-pci -chardev file,id=output,path="$work/output" -device virtserialport,chardev=output,name=output \
  -append "$parameters" > "$work/console" 2>&1 < /dev/null || true
# The guest may have ended before anything opened the pipe.
(exec 3<> "$work/output"; sleep 0.2) &
wait "$reader" || true
if [ ! -s "$out/.guest-status" ]; then
  echo "guest.sh: the guest gave no answer within $limit s; its console ends with:" >&2
  tail -n 15 "$work/console" >&2
  exit 124
fi
exit "$(cat "$out/.guest-status")"
