/**
 * Turns over a WebSocket. The client sends `{"type":"generate", …options of POST …/generate}` or `{"type":"stop"}`; the
 * server `{"type":"piece", …}`, at the end `{"type":"done", …}`, and `{"type":"error","error":{…}}`.
 */
import type { WebSocket } from "@fastify/websocket";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import type { Piece } from "../../generate/turn.ts";
import { logFailure } from "../error-answers.ts";
import { generateBody, idParams } from "../schemas.ts";
import { asServiceError, ServiceError } from "../service-error.ts";
import type { ServiceInstance } from "../service-instance.ts";
import { lastEvent, turnInput } from "./generate.ts";

const stopMessage = z.strictObject({ type: z.literal("stop") });
const mostUnsent = 1 << 20; // bytes that may wait for the client

export function socketRoute(app: ServiceInstance): void {
  const { host, events: settings } = app.memformer;

  app.get(
    "/v1/sessions/:id/socket",
    { websocket: true, schema: { summary: "Turns over a WebSocket.", tags: ["sessions"], params: idParams } },
    (socket: WebSocket, request) => {
      const { id } = request.params;
      let turn: AbortController | undefined;
      const send = async (message: object): Promise<void> => {
        socket.send(JSON.stringify(message));
        const patience = performance.now() + settings.readerTimeout;
        while (socket.bufferedAmount > mostUnsent && socket.readyState === socket.OPEN) {
          if (performance.now() > patience) {
            socket.terminate();
            throw new ServiceError("slow_reader", `the client has read nothing for ${settings.readerTimeout} ms`);
          }
          await sleep(5);
        }
        turn?.signal.throwIfAborted();
      };
      const answer = async (message: unknown): Promise<void> => {
        if (stopMessage.safeParse(message).success) {
          turn?.abort(new ServiceError("aborted", "the client stopped this turn; the session holds what was sent"));
          return;
        }
        if (turn !== undefined) throw new ServiceError("busy", "another turn of this session is under way");
        const { type, ...body } = (message ?? {}) as { type?: unknown };
        const options = generateBody.safeParse(body);
        if (type !== "generate" || !options.success) {
          const problem = options.success ? 'expected type "generate" or "stop"' : options.error.issues[0]!.message;
          throw new ServiceError("invalid_request", problem);
        }
        turn = new AbortController();
        let last: Piece | undefined;
        try {
          const sink = {
            piece: async (piece: Piece) => {
              if (piece.finish === null) await send({ type: "piece", ...piece });
              else last = piece;
            },
          };
          const result = await host.turn(request.client, id, { ...turnInput(options.data), signal: turn.signal }, sink);
          turn = undefined;
          await send({ type: "done", ...lastEvent(result, last) });
        } finally {
          turn = undefined;
        }
      };
      socket.on("message", (data: Buffer) => {
        answer(parsed(data)).catch((error: unknown) => {
          const refusal = asServiceError(error);
          logFailure(request, refusal);
          if (socket.readyState === socket.OPEN) socket.send(JSON.stringify({ type: "error", ...refusal.body }));
        });
      });
      socket.on("error", () => undefined); // "close" follows
      socket.on("close", () => {
        turn?.abort(new ServiceError("aborted", "the client has gone"));
      });
    },
  );
}

function parsed(data: Buffer): unknown {
  try {
    return JSON.parse(data.toString("utf8"));
  } catch {
    return undefined;
  }
}
