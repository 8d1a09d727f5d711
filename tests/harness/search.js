// The search of the site, by its own worker: node search.js WORKER INDEX QUERY...
// Prints the locations that each query finds, best first, as JSON.
const fs = require("fs");
const [worker, index, ...queries] = process.argv.slice(2);
const { items, config } = JSON.parse(fs.readFileSync(index, "utf8"));
const locations = items.map((item) => item.location);
const filter = {
  input: { type: "operator", data: { operator: "and", operands: [] } },
  aggregation: { input: [{ type: "term", data: { field: "tags" } }] },
};
const messages = [];
globalThis.self = globalThis;
self.postMessage = (message) => messages.push(message);
(0, eval)(fs.readFileSync(worker, "utf8"));

async function ask(type, data) {
  self.onmessage(structuredClone({ data: { type, data } }));
  while (!messages.length) await new Promise((resolve) => setTimeout(resolve, 5));
  return messages.pop();
}

(async () => {
  if ((await ask(0, { items, config })).type !== 1) throw new Error("the index is not read");
  const found = {};
  for (const input of queries) {
    const answer = await ask(2, { input, filter });
    found[input] = answer.data.items.map(({ id }) => locations[id]);
  }
  console.log(JSON.stringify(found));
})();
