// The EventSource of undici, which follows the standard that browsers follow: prints each event of the stream at argv[2]
// when it has come, as JSON: type, data, last event id. It comes back after each end, until it is told to stop.

import { createRequire } from "node:module";

const { EventSource } = createRequire(process.env.CLIENTS_NODE_MODULES + "/")("undici");

const [, , url] = process.argv;

function print(value) {
  process.stdout.write(JSON.stringify(value) + "\n");
}

setInterval(() => {}, 60_000); // undici does not keep the program alive while it waits to connect again
const source = new EventSource(url);
for (const type of ["message", "end"]) {
  source.addEventListener(type, (event) => print([event.type, event.data, event.lastEventId]));
}
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) {
    print("closed");
    process.exit(0);
  }
});
