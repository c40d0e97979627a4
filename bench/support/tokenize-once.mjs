// Tokenizes a text once, in a process of its own, and prints what it took: node tokenize-once.mjs TEXT TOKENIZER
// WORKERS OUT
import { openTokenizer, prepareCorpus } from "../../dist/data/index.js";

const [text, spec, workers, out] = process.argv.slice(2);
const opened = await openTokenizer(spec);
// A tokenizer of a user's own, here a copy, stays on the calling thread.
const tokenizer = workers === "0" ? { ...opened } : opened;
const late = [];
let due = performance.now() + 1;
const timer = setInterval(() => {
  const now = performance.now();
  late.push(Math.max(0, now - due));
  due = now + 1;
}, 1);
const began = performance.now(),
  used = process.cpuUsage();
const { train } = await prepareCorpus({ inputs: text, tokenizer, out, heldOut: 0, tokenizeThreads: Number(workers) });
const seconds = (performance.now() - began) / 1000,
  { user, system } = process.cpuUsage(used);
clearInterval(timer);
late.sort((a, b) => a - b);
console.log(
  JSON.stringify({
    bytes: train.header.bytes,
    seconds,
    cpuSeconds: (user + system) / 1e6,
    late: late[Math.floor(0.99 * late.length)],
    peak: process.resourceUsage().maxRSS / 1000,
  }),
);
