/**
 * The views of sessions that somebody watches, each from the first look at it on, until nobody has looked for a while.
 */
import type { Session } from "../generate/session.ts";
import { MemoryView } from "./memory-view.ts";
import type { MemoryPage, Waited } from "./memory-page.ts";

/** What somebody asks for: see `MemoryView.page` and `MemoryView.changed`. */
export interface MemoryQuery extends Omit<Waited, "seconds"> {
  readonly limit?: number;
  /** Seconds to wait for what is not there yet. Default 0. */
  readonly wait?: number;
}

interface Watched {
  readonly view: MemoryView;
  session: Session;
  used: number;
}

const mostWatched = 64;
const unusedFor = 600_000; // milliseconds until a view goes that nobody asks

export class MemoryViews {
  readonly #views = new Map<string, Watched>(); // the longest unused first
  readonly #timer = setInterval(() => {
    this.#tidy();
  }, unusedFor / 10).unref();

  has(key: string): boolean {
    return this.#views.has(key);
  }

  /** What the view of this session has to tell; it begins with the first call, which needs the session. */
  async page(key: string, session: Session | undefined, { wait = 0, ...query }: MemoryQuery): Promise<MemoryPage> {
    const { view } = this.#watched(key, session);
    if (wait > 0) await view.changed({ ...query, seconds: wait });
    return view.page(query);
  }

  /** A turn of this session begins: where it is watched, the view goes on with it. */
  follow(key: string, session: Session): void {
    const watched = this.#views.get(key);
    if (watched === undefined || watched.session === session) return;
    watched.session = session;
    watched.view.attach(session);
  }

  /** The session is no more. */
  end(key: string): void {
    this.#views.get(key)?.view.dispose();
    this.#views.delete(key);
  }

  close(): void {
    clearInterval(this.#timer);
    for (const key of [...this.#views.keys()]) this.end(key);
  }

  #watched(key: string, session: Session | undefined): Watched {
    const watched = this.#views.get(key) ?? { view: new MemoryView(session!), session: session!, used: 0 };
    watched.used = performance.now();
    this.#views.delete(key);
    this.#views.set(key, watched);
    this.#tidy();
    return watched;
  }

  #tidy(): void {
    const oldest = performance.now() - unusedFor;
    for (const [key, { used }] of this.#views) if (this.#views.size > mostWatched || used < oldest) this.end(key);
  }
}
