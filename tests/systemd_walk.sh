# What docs/deployments.md tells an operator to do, as root on a machine of its own that systemd has started; the answers
# go to standard output. tests/systemd_machine.sh puts it there.
set -ex
export PATH=/opt/mfer/.venv/bin:$PATH COLUMNS=200
# A checkout under /tmp, say, is not to be seen by units that have a /tmp of their own.
hardened=(--uid=mfer --property=PrivateTmp=yes --property=EnvironmentFile=/etc/mfer.env)
systemd-run --quiet --wait --collect "${hardened[@]}" /opt/mfer/.venv/bin/mfer --version || { echo unreachable && exit 0; }
runuser -u postgres -- createuser mfer
runuser -u postgres -- createdb --owner mfer mfer
systemctl enable --now mfer-server mfer-flows mfer-dashboard
until journalctl -u mfer-flows | grep -q "Your deployments are being served"; do sleep 1; done
cd /opt/mfer
prefect deployment run 'analyze-folder/default' -p folder=/srv/videos -p min_face=36 --watch
until python -c "import httpx; httpx.get('http://127.0.0.1:8050').raise_for_status()" 2>/dev/null; do sleep 1; done
systemctl restart mfer-server
prefect server status --wait --timeout 300
prefect flow-run ls --state COMPLETED
runuser -u mfer -- env "PATH=$PATH" mfer sql "SELECT count(*) AS faces FROM scores" --format csv --lake /var/lib/mfer/lake
ps -o user= -p "$(systemctl show --property MainPID --value mfer-flows)"
systemctl stop mfer-flows mfer-dashboard mfer-server
for unit in mfer-server mfer-flows mfer-dashboard; do
  echo "$unit $(systemctl show --property Result --value $unit)"
done
