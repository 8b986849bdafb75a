// What the Node programs share: arguments, bodies, lines, and loops that end with the standard input.

import { Readable } from "node:stream";

const METHODS = ["POST", "PUT"]; // libraries repeat an idempotent one by themselves
const SLOW_EACH = 4; // the service takes two seconds for these: they wait while the gateway reloads or ends
const streams = (number) => number % 4 >= 2; // bodies without a length: with both methods, slow ones and fast ones

let ended = false;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function tell(mode, body, told, error) {
  const nothing = { status: 0, version: "", answer: "", outcome: "" };
  console.log(JSON.stringify({ client: mode.name, body, ...(told ?? nothing), error }));
}

async function loop(mode, ask, index, pauseMs) {
  for (let number = 0; !ended; number++) {
    const manner = number % SLOW_EACH === SLOW_EACH - 1 ? "slow" : "fast";
    const body = `${manner} ${mode.name} ${index} ${number}`;
    try {
      const sent = streams(number) ? Readable.from([Buffer.from(body)]) : body;
      tell(mode, body, await ask(METHODS[number % METHODS.length], sent), "");
    } catch (error) {
      tell(mode, body, null, `${error} ${error.cause ?? error.code ?? ""}`);
    }
    await pause(pauseMs);
  }
}

/** Asks for every mode with what `asker(mode, authorityFile, connections)` gives for it, then closes by `close()`. */
export async function run(asker, close) {
  const [authority, connections, pauseMs, ...modes] = process.argv.slice(2);
  process.stdin.on("end", () => (ended = true)).resume();
  const loops = [];
  for (const text of modes) {
    const [name, version, ...url] = text.split("=");
    const mode = { name, version, url: url.join("=") };
    const ask = asker(mode, authority, Number(connections));
    for (let index = 0; index < Number(connections); index++) loops.push(loop(mode, ask, index, Number(pauseMs)));
  }
  await Promise.all(loops);
  await close();
  process.exit(0);
}
