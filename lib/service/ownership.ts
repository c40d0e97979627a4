/** Which process may write a session: what the service needs to know of leases. */

/** Permission to write a session. */
export interface Held {
  /** Grows with every owner of this session. */
  readonly fence: number;
  /** Whether another process held it and did not let go: it may still write, until a write of ours shuts it out. */
  readonly takenOver: boolean;
}

/** Who owns which session. `Leases` is one over a store; a process that has its store alone needs none. */
export interface Ownership {
  /** Makes this process the owner. Throws MemformerError BUSY with `details.url` where another is. */
  acquire(id: string): Promise<Held>;
  /** Whether this process still is, by its own clock. */
  held(id: string): boolean;
  /** Lets go, so that another may take it at once. `forget`: the session is gone, and nobody will. */
  release(id: string, options?: { readonly forget?: boolean }): Promise<void>;
  /** Lets go of all. */
  releaseAll(): Promise<void>;
}

/** For a process that has its store alone. */
export const soleOwner: Ownership = {
  acquire: async () => ({ fence: 0, takenOver: false }),
  held: () => true,
  release: async () => undefined,
  releaseAll: async () => undefined,
};
