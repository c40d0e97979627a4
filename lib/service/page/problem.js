/** What went wrong, in a sentence, and what to do about it. */
export class Problem extends Error {
  /** @param {{title: string, advice: string, status?: number, after?: number}} what `after`: seconds to wait. */
  constructor({ title, advice, status = 0, after }) {
    super(title);
    this.title = title;
    this.advice = advice;
    this.status = status;
    this.after = after;
  }

  static unreachable() {
    return new Problem({
      title: "The server does not answer.",
      advice: "Check that `memformer serve` still runs and that you are online, then try again.",
    });
  }
}

/** The problem that a response tells of; `error` is what its body says. */
export function problemOf(error, response) {
  const { status, headers } = response;
  const after = Number(headers.get("retry-after")) || undefined;
  const soon = after === undefined ? "in a moment" : `in ${after} ${after === 1 ? "second" : "seconds"}`;
  const owner = headers.get("memformer-owner");
  const said = typeof error.message === "string" ? sentence(error.message) : "";
  const made = (title, advice) => new Problem({ title, advice, status, after });
  if (status === 401) return made("This server wants a token.", "Enter the token that its operator gave you.");
  if (status === 403)
    return made("Your token does not allow this.", "Ask the server's operator, or use another token.");
  if (status === 404)
    return made(
      "This session is not there any more.",
      "It was deleted, or it expired. Start a new one, or restore one.",
    );
  if (status === 409) {
    return owner === null
      ? made("The session is busy with another turn.", "Wait until that one is over, or stop it, then try again.")
      : made("Another server holds this session.", `It is at ${owner}. Try again ${soon}, or open the page there.`);
  }
  if (status === 413) return made("That is more than the server takes at once.", "Send it in smaller parts.");
  if (status === 429) return made("You are asking faster than the server allows.", `Try again ${soon}.`);
  if (status === 503) return made("The server has no place free right now.", `Try again ${soon}.`);
  if (status >= 400 && status < 500) return made("The server refused this.", said || "Change the input and try again.");
  const request = headers.get("x-request-id");
  return made(
    "The server failed.",
    [said, request !== null && `Its log has more under request ${request}.`, "Try again."].filter(Boolean).join(" "),
  );
}

function sentence(message) {
  const text = message.trim();
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
