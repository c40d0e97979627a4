/** What a session's memory did, fetched as it happens: the latest segments, the oldest first. */
const KEPT = 512; // of them
const WAIT = 20; // seconds that the server may take to answer that nothing is new

export class MemoryFeed {
  /** Segments: `{ segment, start, end, tokens, classes, change, norm, reads }`. */
  rows = [];
  /** What the server says of all of them; undefined until it has been asked. */
  facts;
  /** Why there is nothing to see. */
  reason;
  #api;
  #id;
  #changed;
  #next = 0;
  #inherited = 0; // segments before this number are those of the session that it was branched from
  #left = new AbortController();
  #begun;

  constructor(api, id, from, changed) {
    this.#api = api;
    this.#id = id;
    this.#changed = changed;
    if (from === undefined) return;
    this.rows = [...from.rows];
    this.facts = from.facts && { ...from.facts, revision: undefined };
    this.#next = this.#inherited = (this.rows.at(-1)?.segment ?? -1) + 1;
  }

  get slots() {
    return this.facts === undefined ? 0 : this.facts.memorySlots;
  }

  /** Resolves once the server watches the session; from then on `changed` is called. */
  start() {
    this.#begun ??= this.#ask(0).then(
      () => void this.#follow(),
      (error) => {
        this.#begun = undefined;
        if (error.status !== 404) throw error;
        this.reason = "This server does not show memories.";
      },
    );
    return this.#begun;
  }

  close() {
    this.#left.abort();
  }

  async #follow() {
    let failures = 0;
    while (!this.#left.signal.aborted && this.reason === undefined) {
      try {
        await this.#ask(WAIT);
        failures = 0;
      } catch (error) {
        if (this.#left.signal.aborted || error.status === 404) return;
        failures += 1;
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(30, error.after ?? 2 ** failures)));
      }
    }
  }

  async #ask(wait) {
    const revision = this.facts?.revision;
    const page = await this.#api.memory(this.#id, { since: this.#next, revision, wait }, this.#left.signal);
    if (!page.available) {
      this.reason = page.reason;
      this.#changed();
      return;
    }
    const { segments, next, more, ...facts } = page;
    const anew = revision !== undefined && revision !== facts.revision;
    this.facts = facts;
    if (anew) {
      // Segments were taken back: what the server has of them is what counts.
      this.rows = this.rows.filter(({ segment }) => segment < this.#inherited);
      this.#next = this.#inherited;
      return this.#ask(0);
    }
    this.rows.push(...segments);
    this.rows.splice(0, Math.max(0, this.rows.length - KEPT));
    this.#next = Math.max(this.#next, next);
    if (segments.length > 0 || wait === 0) this.#changed();
    if (more) await this.#ask(0);
  }
}
