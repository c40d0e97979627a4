/** /v1/completions and /v1/models as OpenAI's own client sees them. */
import { expect } from "chai";
import { readFileSync } from "node:fs";
import { Session, type Memformer } from "../lib/index.ts";
import { choiceSeed } from "../lib/service/openai/completion-request.ts";
import { ascii, CompletionBench, logprobsOf, taken, textOf } from "./support/completions.ts";
import { failure } from "./support/failure.ts";
import { servedModel } from "./support/service.ts";

const plain = { logit_bias: ascii, seed: 3 };

describe("completions", function () {
  this.timeout(60_000);
  let model: Memformer, bench: CompletionBench;
  before(async () => {
    model = await servedModel();
    bench = await CompletionBench.start({ model });
  });
  after(async () => {
    await bench[Symbol.asyncDispose]();
    await model.dispose();
  });

  /** What a session makes of a prompt by itself. */
  async function alone(prompt: string | number[], seed: number, maxTokens: number): Promise<string> {
    using session = await Session.open(model);
    await session.read(prompt);
    let text = "";
    for await (const piece of session.generate({ seed, maxTokens, logitBias: banned })) text += piece;
    return text;
  }
  const banned = Object.fromEntries(Object.keys(ascii).map((id) => [id, -Infinity]));

  it("have the text that a session makes, and what OpenAI's have beside it", async () => {
    const answer = await bench.ask({ ...plain, prompt: "Call me Ishmael." });
    const { id, created, system_fingerprint: fingerprint, choices, ...rest } = answer;
    expect(id).to.match(/^cmpl-[0-9a-f]{32}$/);
    expect(created).to.be.within(Date.now() / 1000 - 60, Date.now() / 1000);
    expect(fingerprint).to.equal((await bench.service.call("GET", "/v1/model")).body["fingerprint"]);
    expect(rest).to.deep.equal({
      object: "text_completion",
      model: "memformer",
      usage: { prompt_tokens: 16, completion_tokens: 16, total_tokens: 32 }, // 16 by default
    });
    const text = await alone("Call me Ishmael.", 3, 16);
    expect(choices).to.deep.equal([{ text, index: 0, logprobs: null, finish_reason: "length" }]);
  });

  it("stream the same text, end once with a reason, and count in a chunk without choices (29, 30)", async () => {
    const { choices, usage } = await bench.ask({ ...plain, prompt: "Call", max_tokens: 20 });
    const stream_options = { include_usage: true };
    const chunks = await bench.chunks({ ...plain, prompt: "Call", max_tokens: 20, stream_options });
    expect(textOf(chunks)).to.equal(choices[0]!.text);
    expect(chunks.at(-1)).to.deep.include({ choices: [], usage });
    const told = chunks.slice(0, -1);
    for (const chunk of told)
      expect(chunk).to.deep.include({ id: chunks[0]!.id, object: "text_completion", usage: null });
    expect(told.map(({ choices: [choice] }) => choice!.finish_reason)).to.deep.equal([
      ...Array<null>(told.length - 1).fill(null),
      "length",
    ]);
    const bare = await bench.chunks({ ...plain, prompt: "Call", max_tokens: 20 });
    expect(bare.some((chunk) => "usage" in chunk || chunk.choices.length !== 1)).to.be.false;
    const raw = await bench.raw({ ...plain, prompt: "Call", max_tokens: 2 });
    expect(raw).to.match(/^(data: \{.*\}\n\n)+data: \[DONE\]\n\n$/);
  });

  it("of several prompts, as texts or tokens, come by index, each as if it were alone", async () => {
    const prompts = ["Call", "me", "naïve 🐋", ""];
    const { choices, usage } = await bench.ask({ ...plain, prompt: prompts, n: 2, max_tokens: 9 });
    expect(choices.map(({ index }) => index)).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(usage).to.deep.equal({ prompt_tokens: 17, completion_tokens: 72, total_tokens: 89 });
    for (const [i, prompt] of prompts.entries()) {
      for (const branch of [0, 1]) {
        const seed = choiceSeed(3, branch)!;
        expect(choices[2 * i + branch]!.text, `${prompt} ${branch}`).to.equal(await alone(prompt, seed, 9));
      }
    }
    const tokens = prompts.map((prompt) => [...Buffer.from(prompt)]);
    const asTokens = await bench.ask({ ...plain, prompt: tokens, n: 2, max_tokens: 9 });
    expect(asTokens.choices).to.deep.equal(choices);
    const one = await bench.ask({ ...plain, prompt: tokens[1], max_tokens: 9 });
    expect(one.choices[0]!.text).to.equal(choices[2]!.text);
    const chunks = await bench.chunks({ ...plain, prompt: prompts, n: 2, max_tokens: 9 });
    for (const { index, text } of choices) expect(textOf(chunks, index)).to.equal(text);
  });

  it("of one prompt read it once and draw apart (31)", async () => {
    const read = async (): Promise<number> => bench.service.metric('memformer_tokens_total{kind="read"}');
    const before = await read();
    const { choices } = await bench.ask({ ...plain, prompt: "x".repeat(50), n: 5, max_tokens: 12 });
    expect((await read()) - before).to.equal(50);
    expect(new Set(choices.map(({ text }) => text)).size).to.equal(5);
    const again = await bench.ask({ prompt: "x".repeat(50), n: 5, max_tokens: 12, logit_bias: ascii });
    expect(again.choices.map(({ text }) => text)).not.to.deep.equal(choices.map(({ text }) => text));
  });

  it("end before a stop string that lies over several chunks, none of which tells a part of it (26)", async () => {
    const { choices } = await bench.ask({ ...plain, max_tokens: 40 });
    const whole = choices[0]!.text,
      stop = whole.slice(11, 17),
      expected = whole.slice(0, whole.indexOf(stop));
    for (const stops of [stop, ["\u0001", stop, whole.slice(20, 22)]]) {
      const chunks = await bench.chunks({ ...plain, max_tokens: 40, stop: stops });
      expect(textOf(chunks)).to.equal(expected);
      expect(chunks.at(-1)!.choices[0]!.finish_reason).to.equal("stop");
      const answer = await bench.ask({ ...plain, max_tokens: 40, stop: stops });
      expect(answer.choices[0]).to.include({ text: expected, finish_reason: "stop" });
      expect(answer.usage!.completion_tokens, "those of the stop too").to.equal(whole.indexOf(stop) + stop.length);
    }
  });

  it("hold back only what may be the beginning of a stop string, with the log-probabilities of each token (27, 28)", async () => {
    const free = await bench.chunks({ ...plain, max_tokens: 40, logprobs: 2 });
    const whole = textOf(free),
      stop = `${whole.slice(7, 10)}\u0001`; // its beginning comes, its end does not
    const held = await bench.chunks({ ...plain, max_tokens: 40, logprobs: 2, stop });
    expect(textOf(held)).to.equal(whole);
    expect(logprobsOf(held)).to.deep.equal(logprobsOf(free));
    const said: string[] = [];
    let waiting = "";
    for (const character of whole) {
      waiting += character;
      let keep = Math.min(waiting.length, stop.length - 1);
      while (!stop.startsWith(waiting.slice(waiting.length - keep))) keep--;
      if (keep < waiting.length) said.push(waiting.slice(0, waiting.length - keep));
      waiting = waiting.slice(waiting.length - keep);
    }
    const told = held.map(({ choices: [choice] }) => choice!.text).filter((text) => text !== "");
    expect(told).to.deep.equal(waiting === "" ? said : [...said, waiting]);
    const { tokens, text_offset: offsets } = logprobsOf(held);
    expect(tokens.join("")).to.equal(whole);
    expect(offsets).to.deep.equal(Array.from(whole, (_, i) => i));
    for (const {
      choices: [choice],
    } of held)
      expect(choice!.logprobs!.tokens!.join("")).to.equal(choice!.text);
  });

  it("score a prompt that is echoed by the model, first token null (31)", async () => {
    const drawn = await bench.ask({ ...plain, prompt: "Call", max_tokens: 20, logprobs: 3 });
    const { text, logprobs } = drawn.choices[0]!;
    for (const max_tokens of [0, 5]) {
      const { choices, usage } = await bench.ask({
        ...plain,
        prompt: `Call${text}`,
        max_tokens,
        logprobs: 3,
        echo: true,
      });
      const echoed = choices[0]!;
      expect(echoed.text.startsWith(`Call${text}`)).to.be.true;
      expect(usage).to.deep.equal({ prompt_tokens: 24, completion_tokens: max_tokens, total_tokens: 24 + max_tokens });
      const { tokens, token_logprobs: own, top_logprobs: top, text_offset: offset } = echoed.logprobs!;
      expect([tokens!.length, own!.length, top!.length, offset!.length]).to.deep.equal(Array(4).fill(24 + max_tokens));
      expect([own![0], top![0]]).to.deep.equal([null, null]);
      expect(tokens!.join("")).to.equal(echoed.text);
      expect(offset).to.deep.equal(tokens!.map((_, i) => i));
      for (const [i, logprob] of logprobs!.token_logprobs!.entries()) {
        expect(own![4 + i]).to.be.closeTo(logprob, 1e-9);
        const given = logprobs!.top_logprobs![i]!;
        expect(Object.keys(top![4 + i]!).toSorted()).to.deep.equal(Object.keys(given).toSorted());
        for (const [token, value] of Object.entries(given)) expect(top![4 + i]![token]).to.be.closeTo(value, 1e-9);
      }
      const unscored = await bench.ask({ ...plain, prompt: `Call${text}`, max_tokens, echo: true });
      expect(unscored.choices[0], "the same text, whether scored or not").to.deep.include({
        text: echoed.text,
        logprobs: null,
      });
      const chunks = await bench.chunks({ ...plain, prompt: `Call${text}`, max_tokens, logprobs: 3, echo: true });
      expect([textOf(chunks), logprobsOf(chunks)]).to.deep.equal([echoed.text, echoed.logprobs]);
    }
  });

  it("name tokens that are no text apart, and count offsets in characters", async () => {
    const { choices } = await bench.ask({ prompt: "🐋é!", max_tokens: 0, logprobs: 5, echo: true });
    const { text, logprobs } = choices[0]!;
    expect(text).to.equal("🐋é!");
    const bytes = [...Buffer.from("🐋é")].map((byte) => `token_id:${byte}`);
    expect(logprobs!.tokens).to.deep.equal([...bytes, "!"]);
    expect(logprobs!.text_offset).to.deep.equal([0, 0, 0, 0, 1, 1, 2]);
    for (const [i, token] of logprobs!.tokens!.entries()) {
      if (i === 0) continue;
      const top = logprobs!.top_logprobs![i]!;
      expect(Object.keys(top).length, "five, and its own").to.be.within(5, 6);
      expect(top[token]).to.equal(logprobs!.token_logprobs![i]);
    }
  });

  it("count the last token at the limit, though half a character is not told (32)", async () => {
    for (const max_tokens of [1, 2, 7, 50]) {
      const biased = { logit_bias: { 256: -100 }, prompt: "x", max_tokens };
      for (let seed = 0; seed < 6; seed++) {
        const { usage, choices } = await bench.ask({ ...biased, seed });
        expect(usage!.completion_tokens).to.equal(max_tokens);
        const chunks = await bench.chunks({ ...biased, seed, stream_options: { include_usage: true } });
        expect(chunks.at(-1)!.usage).to.deep.equal(usage);
        expect(textOf(chunks)).to.equal(choices[0]!.text);
      }
    }
  });

  it("draw by their seed, whoever shares the batch, to the bit (36)", async () => {
    // Those without bias and log-probabilities are drawn in one call.
    for (const body of [{ ...plain, logprobs: 5 }, { ...plain, temperature: 0 }, { seed: 3 }, { seed: 8, top_k: 20 }]) {
      const asked = { prompt: "Call me", max_tokens: 40, ...body };
      const { choices } = await bench.ask(asked);
      const others = Array.from({ length: 16 }, async (_, i) =>
        bench.ask({ ...asked, prompt: "y".repeat(i * 3), max_tokens: 20 + 3 * i, seed: 100 + i }),
      );
      const among = await Promise.all(Array.from({ length: 3 }, async () => bench.ask(asked)));
      for (const { choices: found } of among) expect(found).to.deep.equal(choices);
      await Promise.all(others);
    }
  });

  it("take bias, top_k, min_p, top_p and penalties, which the model's log-probabilities do not show", async () => {
    const greedy = await bench.ask({ ...plain, temperature: 0, max_tokens: 12 });
    for (const narrow of [{ top_k: 1 }, { min_p: 1 }, { top_p: 0 }, { top_p: 1e-9 }])
      expect((await bench.ask({ ...plain, ...narrow, max_tokens: 12 })).choices[0]!.text).to.equal(
        greedy.choices[0]!.text,
      );
    const a = await bench.ask({ max_tokens: 8, logit_bias: { 97: 100 } });
    expect(a.choices[0]!.text).to.equal("aaaaaaaa");
    const penalized = await bench.ask({ ...plain, temperature: 0, max_tokens: 40, repetition_penalty: 50 });
    expect(new Set(penalized.choices[0]!.text).size).to.be.greaterThan(new Set(greedy.choices[0]!.text).size);
  });

  it("refuse what is not done, and what is no field, by name", async () => {
    const refused: [object, string, RegExp][] = [
      [{ best_of: 2 }, "best_of", /not done here/],
      [{ suffix: "x" }, "suffix", /not done here/],
      [{ presence_penalty: 0.5 }, "presence_penalty", /not done here/],
      [{ frequency_penalty: -1 }, "frequency_penalty", /not done here/],
      [{ stream_options: { include_usage: true } }, "stream_options", /stream: true/],
      [{ stream: true, stream_options: { includeUsage: true } }, "stream_options.includeUsage", /"include_usage"/],
      [{ logprobs: 6 }, "logprobs", /5/],
      [{ logprobs: true }, "logprobs", /number/],
      [{ maxTokens: 5 }, "maxTokens", /did you mean "max_tokens"/],
      [{ session: { idd: "x" } }, "session.id", /expected/],
      [{ prompt: [] }, "prompt", /expected a text, tokens/],
      [{ prompt: [1, "a"] }, "prompt", /expected a text, tokens/],
      [{ prompt: [[1], [300]] }, "prompt.1", /token 300 at position 0/],
      [{ logit_bias: { 257: 1 } }, "logit_bias.257", /257 tokens/],
      [{ logit_bias: { 1: 101 } }, "logit_bias.1", /100/],
      [{ stop: "" }, "stop", /expected/],
      [{ stop: "\ud83d" }, "stop", /expected/],
      [{ n: 0 }, "n", /expected/],
      [{ n: 2, session: { id: "x".repeat(22) } }, "n", /branch/],
      [{ prompt: ["a", "b"], session: { id: "x".repeat(22) } }, "prompt", /branch/],
    ];
    for (const [body, param, sentence] of refused) {
      const error = (await failure(bench.ask(body))) as unknown as { status: number; param: string; message: string };
      expect(error, JSON.stringify(body)).to.include({ status: 400, param });
      expect(error.message).to.match(sentence);
    }
    const neutral = {
      best_of: 1,
      suffix: "",
      presence_penalty: 0,
      frequency_penalty: 0,
      user: "u",
      stream_options: null,
    };
    expect((await bench.ask({ ...neutral, max_tokens: 1, logit_bias: null, stop: null })).choices).to.have.length(1);
    expect((await bench.ask({ best_of: 2, n: 2, max_tokens: 1 })).choices).to.have.length(2);
  });

  it("are of the one model that there is", async () => {
    const models = await taken(await bench.client.models.list());
    expect(models.map(({ id }) => id)).to.deep.equal(["memformer"]);
    expect(await bench.client.models.retrieve("memformer")).to.deep.equal(models[0]);
    for (const asked of [async () => bench.client.models.retrieve("a/b c"), async () => bench.ask({ model: "gpt-4" })])
      expect(await failure(asked())).to.include({ status: 404, code: "model_not_found", param: "model" });
  });

  it("are described in the OpenAPI document", async () => {
    const { body } = await bench.service.call<{ paths: Record<string, unknown> }>("GET", "/openapi.json");
    expect(body.paths).to.include.keys("/v1/completions", "/v1/models", "/v1/models/{model}");
    expect(JSON.stringify(body.paths["/v1/completions"])).to.include("include_usage");
  });

  it("need OpenAI's client in tests alone", () => {
    const { dependencies, peerDependencies, devDependencies } = JSON.parse(
      readFileSync(new URL("../package.json", import.meta.url), "utf8"),
    ) as Record<string, Record<string, string>>;
    expect(devDependencies).to.include.keys("openai");
    expect({ ...dependencies, ...peerDependencies }).not.to.include.keys("openai");
  });
});
