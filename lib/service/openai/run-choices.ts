/**
 * The choices of a completion: each prompt read once, its branches drawn side by side in sessions that no store knows;
 * or one choice that goes on in a session of the client's.
 */
import { tokensOf } from "../../generate/read-input.ts";
import { Session } from "../../generate/session.ts";
import type { Piece } from "../../generate/turn.ts";
import type { SessionHost } from "../session-host.ts";
import type { RunTurn, TurnResult } from "../turn-run.ts";
import { ChoiceWriter, type ChoiceText, type Echo } from "./choice-text.ts";
import { choiceSeed, type CompletionRequest, type Prompt } from "./completion-request.ts";
import { scorePrompt } from "./score-prompt.ts";

/** A part of a choice; `finish` in its last. */
export interface ChoicePart extends ChoiceText {
  readonly index: number;
  readonly finish: "stop" | "length" | null;
}

/** A session of the client's, and where it is. */
export interface SessionPlace {
  readonly id: string;
  readonly position: number;
}

/** Who takes the choices. What it throws, or rejects with, ends them all. */
export interface CompletionSink {
  /** What is refused with a status has been refused. May be called again. */
  readonly admitted?: ((session?: SessionPlace) => void) | undefined;
  readonly part: (part: ChoicePart) => void | Promise<void>;
  /** The last part of a choice in a session, which is committed. */
  readonly last?: ((part: ChoicePart, session: SessionPlace) => void | Promise<void>) | undefined;
}

/** What it took. */
export interface Spent {
  /** Tokens read: each prompt's once. */
  readonly prompt: number;
  /** Tokens drawn, of all choices. */
  readonly completion: number;
}

interface Work {
  readonly host: SessionHost;
  readonly request: CompletionRequest;
  readonly sink: CompletionSink;
  readonly run: RunTurn;
  readonly signal: AbortSignal;
}

/** Every choice of every prompt, or none: a failure ends them all, and is thrown. */
export async function completeAlone(
  host: SessionHost,
  client: string,
  request: CompletionRequest,
  sink: CompletionSink,
  gone: AbortSignal,
): Promise<Spent> {
  const { prompts, n } = request;
  return host.together(client, prompts.length * n, async (run, closing) => {
    const failed = new AbortController(),
      signal = AbortSignal.any([gone, closing, failed.signal]),
      work = { host, request, sink, run, signal };
    const spent = await allOf(
      prompts.map(async (prompt, i) => completePrompt(work, prompt, i * n, failed)),
      failed,
    );
    return spent.reduce((a, b) => ({ prompt: a.prompt + b.prompt, completion: a.completion + b.completion }));
  });
}

async function completePrompt(work: Work, prompt: Prompt, first: number, failed: AbortController): Promise<Spent> {
  const { host, request, sink, run, signal } = work,
    { n, logprobs, options } = request;
  const session: Session = await Session.open(host.model, host.tokenizer),
    branches = [session];
  try {
    signal.throwIfAborted();
    let read = 0,
      input = prompt.length > 0 ? prompt : undefined,
      echo = request.echo
        ? { text: textOf(host, prompt, options.maxTokens === 0), tokens: [] as Echo["tokens"] }
        : undefined;
    if (echo !== undefined && logprobs !== undefined && input !== undefined) {
      sink.admitted?.();
      const tokens = await allTokens(host, input);
      echo = await scorePrompt(session, tokens, { top: logprobs, whole: options.maxTokens === 0, signal });
      host.metrics.tokens.add(tokens.length, "read");
      [read, input] = [tokens.length, undefined];
    } else if (n > 1 && input !== undefined) {
      const { usage } = await run(session, { input, maxTokens: 0, signal }, { admitted: () => sink.admitted?.() });
      [read, input] = [usage.read, undefined];
    }
    while (branches.length < n) branches.push(session.clone());
    const before = lastToken(prompt, echo);
    const results = await allOf(
      branches.map(async (branch, i) => {
        const writer = new ChoiceWriter(host.tokenizer, logprobs !== undefined, echo, before),
          seed = choiceSeed(request.seed, i);
        return completeBranch(work, branch, { ...options, input, seed, signal }, first + i, writer);
      }),
      failed,
    );
    for (const { usage } of results) read += usage.read;
    return { prompt: read, completion: results.reduce((sum, { usage }) => sum + usage.generated, 0) };
  } finally {
    for (const branch of branches) branch.dispose();
  }
}

async function completeBranch(
  { sink, run }: Work,
  session: Session,
  input: Parameters<RunTurn>[1],
  index: number,
  writer: ChoiceWriter,
): Promise<TurnResult> {
  const piece = async ({ text, tokens, finish }: Piece): Promise<void> =>
    sink.part({ index, ...writer.take(text, tokens), finish: reasonOf(finish) });
  return run(session, input, { admitted: () => sink.admitted?.(), piece });
}

/** One choice, in a session. Its end is told when it is committed. */
export async function completeInSession(
  host: SessionHost,
  client: string,
  { session: id, prompts: [prompt], echo, logprobs, options, seed }: CompletionRequest & { readonly session: string },
  sink: CompletionSink,
  call: Parameters<SessionHost["turn"]>[4] & { readonly signal: AbortSignal; readonly onAbort?: "discard" },
): Promise<Spent & { readonly session: SessionPlace }> {
  const asked = prompt!,
    echoed = echo ? { text: textOf(host, asked, options.maxTokens === 0), tokens: [] } : undefined,
    writer = new ChoiceWriter(host.tokenizer, logprobs !== undefined, echoed, lastToken(asked, undefined));
  const partOf = ({ text, tokens, finish }: Pick<TurnResult, "text" | "tokens" | "finish"> | Piece): ChoicePart => ({
    index: 0,
    ...writer.take(text, tokens),
    finish: reasonOf(finish),
  });
  const { signal, onAbort = options.onAbort, ...rest } = call;
  let last: Piece | undefined;
  const answer = await host.turn(
    client,
    id,
    { ...options, input: asked.length > 0 ? asked : undefined, seed, signal, onAbort },
    {
      admitted: (position) => sink.admitted?.({ id, position }),
      piece: async (piece) => {
        if (piece.finish === null) await sink.part(partOf(piece));
        else last = piece;
      },
    },
    rest,
  );
  const place = { id, position: answer.position },
    end = partOf(answer.replayed === true ? answer : last!);
  await (sink.last?.(end, place) ?? sink.part(end));
  return { prompt: answer.usage.read, completion: answer.usage.generated, session: place };
}

/** Waits for all of them to end; throws what failed first, which ends the others. */
async function allOf<T>(work: readonly Promise<T>[], failed: AbortController): Promise<T[]> {
  for (const each of work)
    each.catch((error: unknown) => {
      failed.abort(error);
    });
  await Promise.allSettled(work);
  failed.signal.throwIfAborted();
  return Promise.all(work);
}

/** A text's tokens as a session reads it at the start of a document. */
async function allTokens(host: SessionHost, prompt: Prompt): Promise<number[]> {
  const all: number[] = [];
  for await (const part of tokensOf(host.tokenizer, prompt, false))
    for (let i = 0; i < part.length; i++) all.push(part[i]!);
  return all;
}

/** `whole`: nothing will follow; else half a character at the end is told by what follows. */
function textOf({ tokenizer }: SessionHost, prompt: Prompt, whole: boolean): string {
  if (typeof prompt === "string") return prompt;
  const decoder = tokenizer.decoder(),
    text = decoder.push(prompt);
  return whole ? text + decoder.end() : text;
}

function lastToken(prompt: Prompt, echo: Echo | undefined): number | undefined {
  return typeof prompt === "string" ? echo?.tokens.at(-1)?.id : prompt.at(-1);
}

/** In OpenAI's words: a document that ends stops. */
function reasonOf(finish: TurnResult["finish"] | null): ChoicePart["finish"] {
  return finish === "length" || finish === null ? finish : "stop";
}
