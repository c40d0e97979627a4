/**
 * An answer as server-sent events: refused with a status while nothing has been sent, told in the stream from then on.
 */
import type { FastifyReply, FastifyRequest } from "fastify";
import { logFailure } from "./error-answers.ts";
import { EventStream, type EventStreamOptions } from "./event-stream.ts";
import { asServiceError } from "./service-error.ts";

/** Ends with `[DONE]` what `work` sends; what it throws ends the stream without. */
export async function answerStream(
  request: FastifyRequest,
  reply: FastifyReply,
  settings: EventStreamOptions,
  work: (events: EventStream) => Promise<void>,
): Promise<FastifyReply> {
  const events = new EventStream(reply, settings);
  try {
    await work(events);
    events.end("[DONE]");
  } catch (error) {
    const refusal = asServiceError(error);
    if (!events.opened) throw refusal;
    logFailure(request, refusal);
    events.end(refusal.body);
  }
  return reply;
}
