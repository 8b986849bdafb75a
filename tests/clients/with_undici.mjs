// undici: HTTP/1.1 and HTTP/2, the latter without TLS by prior knowledge; one dispatcher for each stream.

import { subscribe } from "node:diagnostics_channel";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { run } from "./node_loops.mjs";

const { buildConnector, H2CClient, Pool, request } = createRequire(process.env.CLIENTS_NODE_MODULES + "/")("undici");

const dispatchers = [];
const names = new WeakMap(); // by socket: whose it is
const spoken = new Map(); // by name: the version of its last connection, as undici itself has it

subscribe("undici:client:connected", ({ connectParams, socket }) =>
  spoken.set(names.get(socket), connectParams.version === "h2" ? "2" : "1.1"),
);

function dispatcherFor(mode, authority, connections) {
  const origin = new URL(mode.url).origin;
  const allowH2 = mode.version === "2";
  const useH2c = allowH2 && origin.startsWith("http:");
  const connector = buildConnector({ allowH2, useH2c, ca: readFileSync(authority) });
  const connect = (options, callback) =>
    connector(options, (error, socket) => {
      if (socket) names.set(socket, mode.name);
      callback(error, socket);
    });
  return useH2c ? new H2CClient(origin, { connect }) : new Pool(origin, { connections, allowH2, connect });
}

await run(
  (mode, authority, connections) => {
    const dispatcher = dispatcherFor(mode, authority, connections);
    dispatchers.push(dispatcher);
    return async (method, body) => {
      const answer = await request(mode.url, { dispatcher, method, body, headersTimeout: 60000 });
      return {
        status: answer.statusCode,
        version: spoken.get(mode.name) ?? "",
        answer: await answer.body.text(),
        outcome: answer.headers["fastgw-outcome"] ?? "",
      };
    };
  },
  () => Promise.all(dispatchers.map((dispatcher) => dispatcher.close())),
);
