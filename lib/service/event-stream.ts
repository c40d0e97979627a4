/**
 * Server-sent events with an end: a client that goes ends the turn, one that does not read is dropped, one that waits
 * hears a ping. In place of a library, whose writes never settle once the peer has gone (fastify/sse#54).
 */
import type { FastifyReply } from "fastify";
import { ServiceError } from "./service-error.ts";

export interface EventStreamOptions {
  /** Milliseconds of silence until a comment is sent, so that proxies keep the connection. */
  readonly pingAfter: number;
  /** Milliseconds that a client may leave the stream unread. */
  readonly readerTimeout: number;
}

export class EventStream {
  readonly #reply: FastifyReply;
  readonly #options: EventStreamOptions;
  readonly #gone = new AbortController();
  #opened = false;
  #ended = false;
  #ping: NodeJS.Timeout | undefined;
  #draining: Promise<void> | undefined; // one for all who wait

  constructor(reply: FastifyReply, options: EventStreamOptions) {
    [this.#reply, this.#options] = [reply, options];
    if (reply.raw.destroyed)
      this.#closed(); // it has closed while the request was read
    else reply.raw.once("close", this.#closed);
  }

  /** Aborts when the client has gone. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** Whether the status has been sent: what fails from now on is told in the stream. */
  get opened(): boolean {
    return this.#opened;
  }

  /** Sends status and headers. */
  open(headers: Readonly<Record<string, string>> = {}): void {
    if (this.#opened) return;
    this.#opened = true;
    this.#reply.hijack();
    const { raw } = this.#reply;
    if (raw.destroyed) return;
    raw.writeHead(200, {
      ...(this.#reply.getHeaders() as Record<string, string>),
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
      ...headers,
    });
    raw.flushHeaders();
    this.#ping = setInterval(() => {
      if (!raw.writableNeedDrain) raw.write(": ping\n\n");
    }, this.#options.pingAfter);
    this.#ping.unref();
  }

  /** Sends an event; resolves when there is room for another. Rejects when the client has gone or does not read. */
  async send(data: unknown): Promise<void> {
    this.open();
    this.#gone.signal.throwIfAborted();
    this.#ping?.refresh();
    if (!this.#reply.raw.write(`data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`))
      await (this.#draining ??= this.#drained().finally(() => (this.#draining = undefined)));
  }

  /** The last event, and the end of the stream; a client that does not read it in time is dropped. */
  end(data?: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#ping);
    const { raw } = this.#reply;
    raw.off("close", this.#closed);
    this.#gone.abort(new ServiceError("aborted", "the stream has ended")); // nobody waits for its reader any more
    if (raw.destroyed) return;
    raw.end(data === undefined ? undefined : `data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`);
    const timer = setTimeout(() => raw.destroy(), this.#options.readerTimeout);
    timer.unref();
    raw.once("close", () => {
      clearTimeout(timer);
    });
  }

  readonly #closed = (): void => {
    clearInterval(this.#ping);
    if (!this.#ended) this.#gone.abort(new ServiceError("aborted", "the client has gone"));
  };

  async #drained(): Promise<void> {
    const { raw } = this.#reply,
      { signal } = this.#gone;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        const late = new ServiceError(
          "slow_reader",
          `the client has read nothing for ${this.#options.readerTimeout} ms`,
        );
        settle(() => reject(late));
        this.#gone.abort(late);
        raw.destroy();
      }, this.#options.readerTimeout);
      const drained = (): void => settle(resolve);
      const gone = (): void => settle(() => reject(signal.reason as Error));
      const settle = (done: () => void): void => {
        clearTimeout(timer);
        raw.off("drain", drained);
        signal.removeEventListener("abort", gone);
        done();
      };
      raw.once("drain", drained);
      signal.addEventListener("abort", gone, { once: true });
    });
  }
}

/** Aborts when the client goes before it has its whole answer. */
export function clientGone(reply: FastifyReply): AbortSignal {
  const gone = new AbortController(),
    closed = (): void => {
      if (!reply.raw.writableFinished) gone.abort(new ServiceError("aborted", "the client has gone"));
    };
  if (reply.raw.destroyed) closed();
  else reply.raw.once("close", closed);
  return gone.signal;
}
