// undici: HTTP/1.1 and HTTP/2, the latter without TLS by prior knowledge; one dispatcher for each stream.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { run } from "./node_loops.mjs";

const { H2CClient, Pool, request } = createRequire(process.env.CLIENTS_NODE_MODULES + "/")("undici");

const dispatchers = [];

function dispatcherFor(mode, authority, connections) {
  const origin = new URL(mode.url).origin;
  const isSecond = mode.version === "2";
  if (isSecond && origin.startsWith("http:")) return new H2CClient(origin);
  return new Pool(origin, { connections, allowH2: isSecond, connect: { ca: readFileSync(authority) } });
}

await run(
  (mode, authority, connections) => {
    const dispatcher = dispatcherFor(mode, authority, connections);
    dispatchers.push(dispatcher);
    return async (method, body) => {
      const answer = await request(mode.url, { dispatcher, method, body, headersTimeout: 60000 });
      return {
        status: answer.statusCode,
        version: mode.version === "2" && dispatcher.stats !== undefined ? "2" : "1.1",
        answer: await answer.body.text(),
        outcome: answer.headers["fastgw-outcome"] ?? "",
      };
    };
  },
  () => Promise.all(dispatchers.map((dispatcher) => dispatcher.close())),
);
