# What systemd runs: an operator, and a client. The last line of /out/said is "done".
exec >/out/said 2>&1
set -eu
url=http://127.0.0.1:8000
file=/etc/llmproxy/llmproxy.yaml
fail() { echo "failed: $*"; systemctl status --no-pager llmproxy.service || true; exit 1; }
stream() {
	curl -sS --max-time 20 -H 'Content-Type: application/json' $url/v1/chat/completions \
		-d '{"model":"mock-model","stream":true,"max_tokens":20,"messages":[{"role":"user","content":"hi"}]}' | tail -n 2
}

/packages/mockvllm -listen 127.0.0.1:9001 -admin '' -itl 2ms -dialect vllm >/out/engine 2>&1 &
systemctl start llmproxy.service
[ "$(systemctl is-active llmproxy.service)" = active ] || fail "it does not serve"
systemctl show -P StatusText llmproxy.service | grep -q 'serving 1 backends' || fail "it does not say what it does"
[ "$(stream)" = "data: [DONE]" ] || fail "a stream: $(stream)"

# Locked in, it can do all that it has to: large uploads wait in a file.
pid=$(systemctl show -P MainPID llmproxy.service)
grep -q '^CapBnd:.0000000000000000$' /proc/$pid/status || fail "it has capabilities"
grep -q '^Seccomp:.2$' /proc/$pid/status || fail "it may call what it likes"
head -c 20000000 /dev/zero >/tmp/audio.wav
curl -sS --max-time 20 -F file=@/tmp/audio.wav -F model=mock-model $url/v1/audio/transcriptions | grep -q '"text"' || fail "an upload"

cp $file /tmp/good.yaml
echo "wieght: 1" >>$file
if systemctl reload llmproxy.service 2>/dev/null; then fail "a file with faults is reloaded"; fi
[ "$(systemctl is-active llmproxy.service)" = active ] || fail "a file with faults has ended it"
cat /tmp/good.yaml >$file
systemctl reload llmproxy.service

# A wrong file is no reason to try again and again.
systemctl stop llmproxy.service
echo "wieght: 1" >>$file
if systemctl start llmproxy.service 2>/dev/null; then fail "it starts with faults"; fi
[ "$(systemctl is-active llmproxy.service)" = failed ] || fail "it is started again: $(systemctl is-active llmproxy.service)"
cat /tmp/good.yaml >$file
systemctl reset-failed llmproxy.service

# Clients of the socket start it, and see nothing of its restarts.
systemctl start llmproxy.socket
[ "$(stream)" = "data: [DONE]" ] || fail "the first client of the socket"
clients=
for client in 1 2 3 4; do
	(while [ ! -e /run/enough ]; do
		[ "$(stream)" = "data: [DONE]" ] && echo served >>/run/served || { echo "client $client: $(stream)" >>/run/lost; break; }
	done) &
	clients="$clients $!"
done
served() { cat /run/served 2>/dev/null | wc -l; }
for restart in 1 2 3; do
	enough=$(($(served) + 8))
	until [ "$(served)" -ge $enough ] || [ -e /run/lost ]; do sleep 0.02; done
	systemctl restart llmproxy.service
done
enough=$(($(served) + 8))
until [ "$(served)" -ge $enough ] || [ -e /run/lost ]; do sleep 0.02; done
touch /run/enough
wait $clients
[ ! -e /run/lost ] || fail "clients lost their answers at a restart: $(cat /run/lost)"
systemctl stop llmproxy.socket llmproxy.service
[ "$(systemctl is-failed llmproxy.service)" = inactive ] || fail "it did not end well"
echo "$(served) streams over 3 restarts, none lost"
echo done
