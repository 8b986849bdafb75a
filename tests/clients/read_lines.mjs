// Node's own fetch: reads the lines of the stream at argv[2] twice, and prints each when it has come, as JSON. Then it
// prints whether the stream was complete.

const [, , url] = process.argv;

function print(value) {
  process.stdout.write(JSON.stringify(value) + "\n");
}

async function readLines(body) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of body) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) print(JSON.parse(line));
  }
}

for (let round = 0; round < 2; round++) {
  const answer = await fetch(url, { headers: { accept: "application/x-ndjson" } });
  print({ status: answer.status, type: answer.headers.get("content-type") });
  await readLines(answer.body).then(
    () => print("complete"),
    () => print("incomplete"),
  );
}
