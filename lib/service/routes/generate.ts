/** Turns over HTTP: one answer in JSON, or server-sent events. */
import type { Piece } from "../../generate/turn.ts";
import { clientGone } from "../event-stream.ts";
import { errorBody, generateBody, idParams, longestBody, turnAnswer, type GenerateBody } from "../schemas.ts";
import { callOf, type ServiceInstance } from "../service-instance.ts";
import type { TurnAnswer } from "../host-types.ts";
import { answerStream } from "../stream-answer.ts";
import type { TurnInput } from "../turn-run.ts";

export function generateRoutes(app: ServiceInstance): void {
  const { host, events: settings } = app.memformer;

  app.post(
    "/v1/sessions/:id/generate",
    {
      bodyLimit: longestBody,
      schema: {
        summary: "Reads text or tokens, if there are any, and continues. The session holds what was sent.",
        tags: ["sessions"],
        params: idParams,
        body: generateBody,
        response: { 200: turnAnswer, "4xx": errorBody },
      },
    },
    async (request, reply) => {
      const { id } = request.params,
        input = turnInput(request.body);
      if (!request.body.stream) {
        // Who has been sent nothing has nothing committed.
        const options = { ...input, onAbort: "discard", signal: clientGone(reply) } as const;
        return host.turn(request.client, id, options, {}, callOf(request));
      }
      return answerStream(request, reply, settings, async (events) => {
        let last: Piece | undefined;
        const sink = {
          admitted: () => {
            events.open({ "memformer-session": id });
          },
          piece: async (piece: Piece) => {
            if (piece.finish === null) await events.send(piece);
            else last = piece; // its end is told when it is committed
          },
        };
        const answer = await host.turn(request.client, id, { ...input, signal: events.gone }, sink, callOf(request));
        await events.send(lastEvent(answer, last));
      });
    },
  );
}

/** The options of a turn, by the names of the library. */
export function turnInput({ text, tokens, stream: _, logitBias, ...options }: GenerateBody): TurnInput {
  return { ...options, input: text ?? tokens, logitBias: logitBias && banned(logitBias) };
}

/** The last event of a turn: its last piece, or all of one that is replayed, and what the session has become. */
export function lastEvent({ id: _, text, tokens, ...rest }: TurnAnswer, last: Piece | undefined): object {
  return rest.replayed === true ? { text, tokens, ...rest } : { text: "", tokens: [], ...last, ...rest };
}

/** JSON has no infinity: a bias below -100 bans a token, as OpenAI's does. */
export function banned(bias: Readonly<Record<string, number>>): Record<number, number> {
  return Object.fromEntries(Object.entries(bias).map(([id, value]) => [id, value <= -100 ? -Infinity : value]));
}
