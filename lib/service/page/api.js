/** The service's HTTP interface. What it refuses is thrown as a {@link Problem}: a sentence, and what to do. */
import { events } from "./event-stream.js";
import { Problem, problemOf } from "./problem.js";

const KEY = "memformer.token";

export class Api {
  #base = new URL(".", document.baseURI);
  #token = sessionStorage.getItem(KEY);

  /** Kept for this tab alone. */
  set token(value) {
    this.#token = value;
    sessionStorage.setItem(KEY, value);
  }

  model() {
    return this.#json("v1/model");
  }

  create(saved) {
    const init =
      saved === undefined ? json({}) : { body: saved, headers: { "content-type": "application/octet-stream" } };
    return this.#json("v1/sessions", { method: "POST", ...init });
  }

  info(id) {
    return this.#json(`v1/sessions/${id}`);
  }

  branch(id) {
    return this.#json(`v1/sessions/${id}/branch`, { method: "POST", ...json({}) });
  }

  remove(id) {
    return this.#fetch(`v1/sessions/${id}`, { method: "DELETE" });
  }

  read(id, text, signal) {
    const headers = { "content-type": "text/plain; charset=utf-8" };
    return this.#json(`v1/sessions/${id}/read`, { method: "POST", body: text, headers, signal });
  }

  async state(id) {
    return (await this.#fetch(`v1/sessions/${id}/state`)).blob();
  }

  /** Segments from number `since` on; answers once there is one, after `wait` seconds in any case. */
  memory(id, { since, revision, wait }, signal) {
    const query = new URLSearchParams({ since, wait });
    if (revision !== undefined) query.set("revision", revision);
    return this.#json(`v1/sessions/${id}/memory?${query}`, { signal });
  }

  /** The pieces of a generation, as they come; the last has `finish`. */
  async *generate(id, options, signal) {
    const response = await this.#fetch(`v1/sessions/${id}/generate`, {
      method: "POST",
      ...json({ ...options, stream: true }),
      signal,
    });
    let ended = false;
    try {
      for await (const data of events(response.body)) {
        if (data === "[DONE]") return;
        const piece = JSON.parse(data);
        if (piece.error !== undefined) throw problemOf(piece.error, response);
        ended ||= piece.finish !== null;
        yield piece;
      }
    } catch (error) {
      if (error instanceof Problem || signal?.aborted) throw error;
      throw Problem.unreachable();
    }
    if (!ended) throw Problem.unreachable();
  }

  async #json(path, init) {
    return (await this.#fetch(path, init)).json();
  }

  async #fetch(path, init = {}) {
    const headers = { ...init.headers, ...(this.#token !== null && { authorization: `Bearer ${this.#token}` }) };
    let response;
    try {
      response = await fetch(new URL(path, this.#base), { ...init, headers, cache: "no-store" });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw Problem.unreachable();
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    throw problemOf(body.error ?? {}, response);
  }
}

function json(value) {
  return { body: JSON.stringify(value), headers: { "content-type": "application/json" } };
}
