/** Tasks of long context: documents say what they claim, answers are where they are said to be, and are scored so. */
import { expect } from "chai";
import { writeFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Memformer, openTokenizer, PADDING, Random, tokensInMemory, type TokenSource } from "../lib/index.ts";
import { babilong } from "../lib/experiments/babilong.ts";
import { taskAccuracy } from "../lib/experiments/tasks/accuracy.ts";
import { leastFacts, places, questions, story } from "../lib/experiments/tasks/babi-world.ts";
import { babilongTask } from "../lib/experiments/tasks/babilong.ts";
import { listOpsTask, listOpsText } from "../lib/experiments/tasks/listops.ts";
import { forms, mqarTask } from "../lib/experiments/tasks/mqar.ts";
import { answeredAtEnd, TaskStream, type Task, type TaskDocument } from "../lib/experiments/tasks/task.ts";
import { taskModel } from "../lib/experiments/tasks/train.ts";
import { failure } from "./support/failure.ts";

/** The tokens and answers of a document by segment. */
async function documentOf(task: Task, seed: number): Promise<TaskDocument> {
  return task.document(new Random(seed));
}

describe("tasks: associative recall", () => {
  for (const form of forms) {
    for (const pairs of [4, 8, 12]) {
      it(`shows ${pairs} pairs and asks for each once, ${form}`, async () => {
        const task = mqarTask({ form, segmentLength: 8, keys: 16, values: 5, pairs });
        const { tokens, answers } = await documentOf(task, 3),
          shown = new Map(Array.from({ length: pairs }, (_, i) => [tokens[2 * i], tokens[2 * i + 1]]));
        expect(tokens.length).to.equal(8 * task.answering.length);
        expect(shown.size, "different keys").to.equal(pairs);
        const asked = new Map<number, number>();
        answers.forEach((answer, i) => {
          if (answer === 1) asked.set(tokens[form === "ahead" ? i - 8 : i - 1]!, tokens[i]!);
        });
        expect([...asked].sort()).to.deep.equal([...shown].sort());
        task.answering.forEach((answering, t) => {
          expect(answers.subarray(8 * t, 8 * t + 8).includes(1), `segment ${t}`).to.equal(answering);
        });
      });
    }
  }

  it("refuses more pairs than keys", () => {
    expect(() => mqarTask({ form: "ahead", segmentLength: 8, keys: 4, values: 4, pairs: 5 })).to.throw(
      /5 pairs of 4 keys/,
    );
  });
});

/** The value of an expression as text, by the words of it. */
function valueOf(words: string[]): number {
  const word = words.shift()!;
  if (!word.startsWith("[")) return Number(word);
  const values: number[] = [];
  while (words[0] !== "]") values.push(valueOf(words));
  words.shift();
  const sorted = values.toSorted((a, b) => a - b),
    sum = values.reduce((total, value) => total + value);
  if (word === "[MIN") return sorted[0]!;
  if (word === "[MAX") return sorted.at(-1)!;
  if (word === "[SM") return sum % 10;
  return Math.floor((sorted[Math.floor((sorted.length - 1) / 2)]! + sorted[Math.ceil((sorted.length - 1) / 2)]!) / 2);
}

describe("tasks: ListOps", () => {
  it("asks for the value of expressions of the lengths and depths that are asked for", async () => {
    const size = { least: 8, most: 60, depth: 3, operands: 5 },
      task = listOpsTask({ segmentLength: 16, ...size });
    const seen = new Set<number>();
    for (let seed = 0; seed < 200; seed++) {
      const { tokens, answers } = await documentOf(task, seed),
        end = tokens.length - 16;
      const text = listOpsText([...tokens.subarray(0, end)]),
        words = text.split(" ");
      expect(words.pop()).to.equal("=");
      expect(words.length).to.be.within(size.least, size.most);
      let depth = 0;
      for (const word of words) {
        depth += word.startsWith("[") ? 1 : word === "]" ? -1 : 0;
        expect(depth).to.be.within(0, size.depth);
      }
      expect(tokens[end], text).to.equal(valueOf(words));
      expect([...answers].lastIndexOf(1)).to.equal(end);
      expect([...tokens.subarray(end + 1)].every((token) => token === PADDING)).to.equal(true);
      seen.add(tokens[end]!);
    }
    expect(seen.size, "every digit is an answer").to.equal(10);
  });

  it("makes the arena's lengths, and refuses those that no expression has", async () => {
    const task = listOpsTask({ segmentLength: 128, least: 500, most: 2000, depth: 10, operands: 10 });
    const { tokens } = await documentOf(task, 1);
    expect(listOpsText([...tokens.subarray(0, -128)]).split(" ").length).to.be.within(501, 2001);
    expect(() => listOpsTask({ segmentLength: 8, least: 9, most: 8, depth: 1, operands: 2 })).to.throw(
      /got 9 to 8 tokens/,
    );
  });
});

/** Who is where, and where things have been, from the sentences alone. */
function answerOf(facts: readonly string[], question: string): string {
  const at = new Map<string, string>(),
    holder = new Map<string, string>(),
    been = new Map<string, string[]>();
  const visit = (thing: string, place: string): void => {
    const seen = been.get(thing) ?? [];
    if (seen.at(-1) !== place) been.set(thing, [...seen, place]);
  };
  for (const fact of facts) {
    const words = fact.slice(0, -1).split(" "),
      [person, last] = [words[0]!, words.at(-1)!];
    if ((places as readonly string[]).includes(last)) {
      at.set(person, last);
      for (const [thing, of] of holder) if (of === person) visit(thing, last);
    } else if (/picked|took|got/.test(fact)) {
      expect(holder.has(last), `nobody holds it: ${fact}`).to.equal(false);
      holder.set(last, person);
      visit(last, at.get(person)!);
    } else {
      expect(holder.get(last), fact).to.equal(person);
      holder.delete(last);
    }
  }
  const words = question.slice(0, -1).split(" ");
  if (question.includes("before")) return been.get(words[3]!)!.at(-2)!;
  return at.get(words.at(-1)!) ?? been.get(words.at(-1)!)!.at(-1)!;
}

describe("tasks: facts hidden in text", () => {
  let filler: TokenSource;
  before(async () => {
    filler = tokensInMemory([Int32Array.from({ length: 3000 }, (_, i) => 97 + (i % 5))], await openTokenizer("bytes"));
  });

  for (const question of questions) {
    it(`${question}: stories answer their questions, with every place as an answer`, () => {
      const answers = new Set<string>();
      for (let seed = 0; seed < 200; seed++) {
        const facts = leastFacts[question] + (seed % 9),
          told = story(new Random(seed), question, facts);
        expect(told.facts).to.have.length(facts);
        expect(answerOf(told.facts, told.question), told.facts.join(" ")).to.equal(told.answer);
        answers.add(told.answer);
      }
      expect([...answers].sort()).to.deep.equal([...places]);
    });
  }

  it("keep their order in the text, fill whole segments, and are asked about at the end", async () => {
    const task = babilongTask({ question: "qa3", segmentLength: 64, length: 512, facts: [4, 12], filler });
    for (let seed = 0; seed < 20; seed++) {
      const { tokens, answers } = await documentOf(task, seed);
      expect(tokens.length).to.equal(512 + 64);
      const text = Buffer.from(Uint8Array.from(tokens.subarray(0, 512))).toString();
      const question = /Where was the \w+ before the \w+\? $/.exec(text)![0].trim();
      const facts = [...text.matchAll(/[A-Z]\w+ [a-z ]+?\.(?= )/g)].map(([fact]) => fact);
      const answer = Buffer.from(Uint8Array.from(tokens.subarray(512).filter((token) => token >= 0))).toString();
      expect(answer).to.equal(`${answerOf(facts, question)}.`);
      expect(answers.reduce((sum, of) => sum + of, 0)).to.equal(answer.length);
    }
  });

  it("are refused where they do not fit, before anything is trained", async () => {
    const options = { question: "qa1", segmentLength: 64, facts: [1, 2], filler } as const;
    expect(() => babilongTask({ ...options, length: 500 })).to.throw(/whole segments of 64.*got 500/);
    expect(() => babilongTask({ ...options, question: "qa3", length: 512 })).to.throw(/from 3 facts/);
    expect(() => babilongTask({ ...options, length: 6400 })).to.throw(/has 3000 bytes, fewer than 6400/);
    const short = babilongTask({ ...options, segmentLength: 16, length: 32, facts: [2, 2] });
    expect((await failure(documentOf(short, 0))).code).to.equal("ERR_MEMFORMER_CONFIG");
    const folder = await mkdtemp(join(tmpdir(), "memformer-tasks-"));
    try {
      await writeFile(join(folder, "short.txt"), "A short text. ".repeat(300));
      const plan = babilong.plan({
        budget: "full",
        seeds: [0],
        data: join(folder, "short.txt"),
        device: "cpu",
        folder,
      });
      expect((await failure(plan)).message).to.match(/fewer than/);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

describe("tasks: the stream and its score", function () {
  this.timeout(60_000);
  /** Two segments of 4 tokens, the second its answer. */
  const echo: Task = {
    vocabulary: 6,
    bos: 5,
    segmentLength: 4,
    answering: [false, true],
    document: (random) => answeredAtEnd(Int32Array.of(4, 4, 4, random.below(4)), [3, 3], 4),
  };

  it("gives segments their source, starts and answers, and goes on from its position", async () => {
    const stream = new TaskStream(echo, 2, 7);
    const [first, second] = [await stream.next(), await stream.next()],
      position = stream.position(),
      third = await stream.next();
    expect([...first.source]).to.deep.equal([5, -1, -1, -1, 5, -1, -1, -1]);
    expect([...first.reset, ...second.reset, ...third.reset]).to.deep.equal([1, 1, 0, 0, 1, 1]);
    expect([...second.source]).to.deep.equal([...first.target]);
    expect([...second.target]).to.deep.equal([3, 3, -1, -1, 3, 3, -1, -1]);
    expect([...second.answers]).to.deep.equal([1, 1, 0, 0, 1, 1, 0, 0]);
    const again = new TaskStream(echo, 2, 7);
    again.seek(position);
    expect(await again.next()).to.deep.equal(third);
    expect(() => {
      again.seek({
        lanes: [
          { document: 0, step: 2 },
          { document: 0, step: 0 },
        ],
      });
    }).to.throw(/2 lanes within documents of 2 segments/);
  });

  it("counts an answer right where every token of it is", async () => {
    await using model = await Memformer.create({
      preset: "tiny",
      vocabulary: 6,
      bos: 5,
      segmentLength: 4,
      device: "cpu",
    });
    const options = { lanes: 2, documents: 2, seed: 2 };
    // Whatever it names, it names for both places and all documents alike: the answers are made to fit.
    const of = async (answer: number[]): Promise<{ tokens: number; documents: number }> =>
      taskAccuracy(model, { ...echo, document: () => answeredAtEnd(Int32Array.of(4, 4, 4, 4), answer, 4) }, options);
    const right: number[] = [];
    for (let place = 0; place < 2; place++)
      for (let token = 0; token < 6; token++) {
        const { tokens } = await of([...right, token]);
        if (tokens === 1) {
          right.push(token);
          break;
        }
      }
    expect(right).to.have.length(2);
    expect(await of(right)).to.deep.equal({ tokens: 1, documents: 1 });
    expect(await of([right[0]!, (right[1]! + 1) % 5])).to.deep.equal({ tokens: 0.5, documents: 0 });
  });

  it("is learned through the memory: a token of the segment before the last", async () => {
    const far: Task = {
      ...echo,
      answering: [false, false, true],
      document(random) {
        const key = random.below(4);
        return answeredAtEnd(Int32Array.of(key, 4, 4, 4, 4, 4, 4, 4), [key], 4);
      },
    };
    const { model: made } = await taskModel(
      {
        name: "m",
        model: { width: 32, heads: 2, feedForward: 64, encoderLayers: 1, decoderLayers: 1, memorySlots: 4 },
        lanes: 16,
        steps: 150,
        rate: 5e-3,
        seed: 0,
      },
      far,
      { data: undefined, device: "cpu", folder: "", checkpoints: "", signal: undefined, note: () => undefined },
    );
    await using model = made;
    const options = { lanes: 16, documents: 4, seed: 2 };
    expect((await taskAccuracy(model, far, options)).documents).to.equal(1);
    expect((await taskAccuracy(model, far, { ...options, forgotten: true })).documents).to.be.below(0.6);
  });
});
