/** Trains a small Memformer on Moby-Dick, a token a byte, and lets it write on: `npx tsx examples/train.ts [steps]` */
import { evaluate, evaluationPass, Memformer, openDataset, openTokenizer, TokenStream, Trainer } from "../lib/index.ts";

const steps = Number(process.argv[2] ?? 120);
const tokenizer = await openTokenizer("bytes");
await using book = await openDataset("moby-dick", { tokenizer });

// A segment has 64 bytes; memory, 16 slots of 128 numbers, is all that crosses from one segment to the next.
await using model = await Memformer.create({ preset: "demo", memorySlots: 16 });
console.log(`${model.parameterCount} parameters; memory of ${model.stateBytes} bytes, however long the book`);

// 8 places of the book side by side; the gradient goes back through windows of 4 segments, replayed one by one.
const stream = new TokenStream(book.train, { lanes: 8, segmentLength: 64 });
const trainer = new Trainer(model, { steps, horizon: 4, learningRate: 2e-3, warmup: 20 });
for await (const made of trainer.run(stream, { checkpoints: "runs/example/checkpoints" })) {
  if (made.step % 20 !== 0 && made.step !== 1) continue;
  const [loss, norm, ofMemory] = [made.loss, made.gradientNorm, made.memoryGradientNorm].map((x) => x.toPrecision(3));
  console.log(`step ${made.step}: loss ${loss} nats, gradient ${norm}, of the memory ${ofMemory}`);
}

const held = await evaluate(model, evaluationPass(book.valid, { lanes: 4, segmentLength: 64 }), { segments: 40 });
const initial = held.ablations.initial!;
console.log(
  `held out: ${held.bitsPerToken.toFixed(3)} bits a byte, ${initial.bitsPerToken.toFixed(3)} with every segment from the initial memory`,
);

await model.save("runs/example/model");
using session = await model.session(tokenizer);
await session.read("Call me Ishmael. Some years ago");
for await (const piece of session.generate({ maxTokens: 200, temperature: 0.7 })) process.stdout.write(piece);
process.stdout.write("\n");
