# A machine of its own (systemd-nspawn, no network) over a copy of this one that leaves no trace: units and settings of
# deploy/ are installed in it, tests/systemd_walk.sh is run by it, and its answers are printed. Run by unshare --mount.
#
# systemd_machine.sh ROOT PREFIX WORK VIDEOS: the project, its virtual environment, an empty folder, a folder of videos.
# Exit code 77: no machine can be started inside this one.
set -eu
project=$1 prefix=$2 work=$3 videos=$4
mount -t tmpfs tmpfs "$work" || exit 77
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root" || exit 77
root=$work/root units=$work/root/etc/systemd/system
for path in "$project" "$prefix" "$(readlink -f "$prefix/bin/python")"; do # the user mfer has to get there
  while [ "$path" != / ]; do path=$(dirname "$path") && chmod o+x "$root$path"; done
done
chmod o+r "$root$project"
rm -f "$units"/*.wants/* "$root/etc/fstab"
mkdir -p "$root/opt/mfer" "$root/srv" "$units/multi-user.target.wants"
cp -r "$videos" "$root/srv/videos" && chmod -R a+rX "$root/srv"
ln -s "$prefix" "$root/opt/mfer/.venv"
cp "$project/prefect.toml" "$root/opt/mfer"
chroot "$root" useradd --system --home-dir /var/lib/mfer --shell /usr/sbin/nologin mfer
install -m 600 "$project/deploy/mfer.env" "$root/etc/mfer.env"
echo "PYTHONPATH=$project" >>"$root/etc/mfer.env"
cp "$project"/deploy/*.service "$units"
cp "$project/tests/systemd_walk.sh" "$root/walk.sh"
cat >"$units/walk.service" <<'UNIT'
[Unit]
Requires=postgresql.service
After=postgresql.service multi-user.target
[Service]
Type=oneshot
EnvironmentFile=/etc/mfer.env
ExecStart=/bin/bash /walk.sh
ExecStopPost=/bin/systemctl poweroff --no-block
StandardOutput=file:/said
StandardError=file:/traced
UNIT
ln -s /lib/systemd/system/postgresql.service "$units/walk.service" "$units/multi-user.target.wants"
timeout --kill-after=10 900 systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe \
  --directory="$root" --boot systemd.unit=multi-user.target >"$work/booted" 2>&1 || true
if [ ! -e "$root/said" ]; then # it did not come as far as the walk
  tail -n 5 "$work/booted" >&2
  exit 77
fi
cat "$root/said"
tail -n 50 "$root/traced" "$work/booted" >&2
