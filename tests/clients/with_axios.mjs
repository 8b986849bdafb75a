// axios: HTTP/1.1 with agents that keep connections, and HTTP/2.

import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { run } from "./node_loops.mjs";

const axios = createRequire(process.env.CLIENTS_NODE_MODULES + "/")("axios");

// A stream of HTTP/2 knows which pseudo-headers it has sent.
const isHttp2 = (request) => request?.sentHeaders?.[":method"] !== undefined;

await run(
  (mode, authority, connections) => {
    const ca = readFileSync(authority);
    const keeping = { keepAlive: true, maxSockets: connections };
    const client = axios.create({
      httpAgent: new http.Agent(keeping),
      httpsAgent: new https.Agent({ ...keeping, ca }),
      httpVersion: Number(mode.version),
      http2Options: { ca },
      timeout: 60000,
      proxy: false,
      maxRedirects: 0, // to follow one it would keep a streamed body
      responseType: "text",
      transformResponse: (text) => text,
      validateStatus: () => true,
      headers: { "content-type": "text/plain" },
    });
    return async (method, body) => {
      const answer = await client.request({ url: mode.url, method, data: body });
      return {
        status: answer.status,
        version: isHttp2(answer.request) ? "2" : (answer.request?.res?.httpVersion ?? ""),
        answer: answer.data,
        outcome: answer.headers["fastgw-outcome"] ?? "",
      };
    };
  },
  () => {},
);
