/**
 * Connections that have not sent a request yet, as browsers and pools open them ahead. Node takes them for busy, and a
 * server that closes would wait a minute for each.
 */
import type { Server } from "node:http";
import type { Socket } from "node:net";

/** Watches a server; what it gives destroys those connections, and those that come from then on. */
export function watchUnused(server: Server): () => void {
  const unused = new Set<Socket>();
  let closing = false;
  server.on("connection", (socket) => {
    if (closing) socket.destroy();
    unused.add(socket);
    socket.once("close", () => unused.delete(socket));
  });
  server.on("request", ({ socket }) => unused.delete(socket));
  server.on("upgrade", ({ socket }) => unused.delete(socket));
  return () => {
    closing = true;
    for (const socket of unused) socket.destroy();
  };
}
