/** A client that streams turn after turn of one session, and sometimes goes in the middle. */
import { Agent, request } from "undici";

/** What a client saw of a turn. */
export interface Turn {
  readonly prompt: string;
  readonly seed: number;
  /** What it was sent before it went, or all. */
  readonly text: string;
  readonly tokens: number;
  readonly vanished: boolean;
  /** Where the session stood after it, as the server says. */
  readonly position: number;
  /** Milliseconds; undefined: no token came. */
  readonly firstToken: number | undefined;
  readonly gaps: readonly number[];
}

export interface ClientOptions {
  readonly tokens: number;
  /** The share of turns that it leaves. */
  readonly vanish: number;
}

const agent = new Agent({ connections: 1024, headersTimeout: 0, bodyTimeout: 0 });

export class Client {
  readonly turns: Turn[] = [];
  readonly failures: string[] = [];
  readonly #url: string;
  readonly #number: number;
  readonly #options: ClientOptions;

  constructor(url: string, number: number, options: ClientOptions) {
    [this.#url, this.#number, this.#options] = [url, number, options];
  }

  /** Streams turns until `end`, by performance.now(). */
  async run(end: number): Promise<void> {
    try {
      const { id } = await this.#json<{ id: string }>("POST", "/v1/sessions");
      for (let i = 0; performance.now() < end; i++) await this.#turn(id, i);
    } catch (error) {
      this.failures.push(`client ${this.#number}: ${String(error)}`);
    }
  }

  async #turn(id: string, i: number): Promise<void> {
    const prompt = `Client ${this.#number}, turn ${i}. `,
      seed = this.#number * 100_000 + i,
      leaves =
        fraction(seed) < this.#options.vanish ? Math.ceil(fraction(seed + 0.5) * this.#options.tokens) : Infinity;
    const body = JSON.stringify({
      text: prompt,
      maxTokens: this.#options.tokens,
      seed,
      stream: true,
    });
    const start = performance.now(),
      headers = { "content-type": "application/json" };
    const { statusCode, body: stream } = await request(`${this.#url}/v1/sessions/${id}/generate`, {
      method: "POST",
      headers,
      body,
      dispatcher: agent,
    });
    if (statusCode !== 200) throw new Error(`${statusCode} ${await stream.text()}`);
    let text = "",
      rest = "",
      tokens = 0,
      before: number | undefined,
      firstToken: number | undefined,
      position: number | undefined,
      vanished = false;
    const gaps: number[] = [];
    stream.setEncoding("utf8");
    for await (const chunk of stream as AsyncIterable<string>) {
      const parts = (rest + chunk).split("\n\n");
      rest = parts.pop()!;
      for (const part of parts) {
        if (!part.startsWith("data: {")) continue;
        const event = JSON.parse(part.slice(6)) as {
          text?: string;
          tokens?: unknown[];
          position?: number;
          error?: object;
        };
        if (event.error !== undefined) throw new Error(JSON.stringify(event.error));
        text += event.text ?? "";
        tokens += event.tokens?.length ?? 0;
        position = event.position ?? position;
        const now = performance.now();
        if (before !== undefined) gaps.push(now - before);
        else if (tokens > 0) firstToken = now - start;
        before = tokens > 0 ? now : undefined;
      }
      if (tokens >= leaves && position === undefined) {
        vanished = true;
        break; // destroys the connection
      }
    }
    if (position === undefined) {
      if (!vanished) throw new Error(`turn ${i} had no end`);
      position = await this.#settled(id);
    }
    this.turns.push({ prompt, seed, text, tokens, vanished, position, firstToken, gaps });
  }

  /** Where the session stands once the server has noticed that its client went. */
  async #settled(id: string): Promise<number> {
    for (;;) {
      const { busy, position } = await this.#json<{ busy: boolean; position: number }>("GET", `/v1/sessions/${id}`);
      if (!busy) return position;
    }
  }

  async #json<Body>(method: "GET" | "POST", path: string): Promise<Body> {
    const { statusCode, body } = await request(`${this.#url}${path}`, { method, dispatcher: agent });
    const text = await body.text();
    if (statusCode >= 300) throw new Error(`${method} ${path}: ${statusCode} ${text}`);
    return JSON.parse(text) as Body;
  }
}

/** A number of [0, 1) that depends on `seed` alone. */
function fraction(seed: number): number {
  const x = Math.sin(seed * 12.9898 + 78.233) * 43_758.5453;
  return x - Math.floor(x);
}
