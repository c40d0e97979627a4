/** Every failure of a request as an answer of one form: never a stack, never a page of HTML. */
import type { FastifyError, FastifyReply, FastifyRequest } from "fastify";
import { hasZodFastifySchemaValidationErrors } from "fastify-type-provider-zod";
import { noOption } from "../errors.ts";
import { asServiceError, ServiceError } from "./service-error.ts";

/** Answers with what went wrong; failures of ours are logged with their cause. */
export async function answerError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const refusal = refusalOf(error, request);
  logFailure(request, refusal);
  await reply.status(refusal.statusCode).headers(refusal.headers).send(refusal.body);
}

/** Logs what the server, not its client, has done. */
export function logFailure(request: FastifyRequest, { statusCode, cause, code }: ServiceError): void {
  if (statusCode >= 500 && code !== "shutting_down" && code !== "overloaded") request.log.error({ err: cause }, code);
}

/** Any error of Fastify's, its plugins' or ours. */
export function refusalOf(error: FastifyError, request: FastifyRequest): ServiceError {
  if (hasZodFastifySchemaValidationErrors(error)) return ofValidation(error, request);
  const status = error.statusCode;
  if (error instanceof ServiceError || status === undefined || status >= 500) return asServiceError(error);
  switch (status) {
    case 404:
      return new ServiceError("not_found", error.message);
    case 413:
      return new ServiceError("too_large", "the body is larger than this server takes; send long texts as text/plain");
    case 429:
      return new ServiceError("rate_limited", error.message, { retryAfter: 1 });
    default:
      return new ServiceError("invalid_request", error.message);
  }
}

interface Issue {
  readonly keyword: string;
  readonly instancePath: string;
  readonly message?: string;
  readonly params: { readonly keys?: readonly string[] };
}

function ofValidation(error: FastifyError, request: FastifyRequest): ServiceError {
  const [issue] = error.validation as unknown as readonly [Issue];
  const path = issue.instancePath.split("/").filter((part) => part !== "");
  if (issue.params.keys !== undefined) {
    const [key] = issue.params.keys as readonly [string];
    const name = [...path, key].join(".");
    return new ServiceError("invalid_request", noOption(key, name, knownFields(request, path)), { param: name });
  }
  const param = path.join(".");
  const message = issue.message?.replace(/^Invalid input: /, "") ?? "it is not valid";
  return new ServiceError("invalid_request", `${param || (error.validationContext ?? "request")}: ${message}`, {
    param: param || undefined,
  });
}

/** The fields of the request's body, or of the object at `path` in it, so that a mistyped one can be told. */
function knownFields(request: FastifyRequest, path: readonly string[]): readonly string[] {
  let schema = request.routeOptions.schema?.body as Described | undefined;
  for (const part of path) {
    schema = schema?.shape?.[part];
    while (schema?.unwrap !== undefined) schema = schema.unwrap();
  }
  return Object.keys(schema?.shape ?? {});
}

/** What there is to know of a zod schema here. */
interface Described {
  readonly shape?: Readonly<Record<string, Described>>;
  readonly unwrap?: () => Described;
}
