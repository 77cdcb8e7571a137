// A billing system that knows nothing of the sender: it checks signatures with
// Standard Webhooks' library and reads events with CloudEvents'. On standard
// output it says its address, then a line of JSON for each request.
import { createServer } from 'node:http';
import { HTTP } from 'cloudevents';
import { Webhook } from 'standardwebhooks';

const webhook = new Webhook(process.env.SECRET, { format: process.env.FORMAT });
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');

const server = createServer(async (req, res) => {
  const pieces = [];
  for await (const piece of req) pieces.push(piece);
  const body = Buffer.concat(pieces);
  try {
    webhook.verify(body, req.headers);
  } catch (e) {
    say({ id: req.headers['webhook-id'], refused: e.message });
    res.writeHead(401).end();
    return;
  }
  try {
    const events = HTTP.toEvent({ headers: req.headers, body: body.toString() });
    for (const e of events) e.validate();
    say({ id: req.headers['webhook-id'], events });
    res.writeHead(204).end();
  } catch (e) {
    say({ id: req.headers['webhook-id'], rejected: e.message });
    res.writeHead(422).end();
  }
});
server.listen(0, '127.0.0.1', () => say({ address: `http://127.0.0.1:${server.address().port}/` }));
process.stdin.resume().on('end', () => process.exit()); // with the test
