/** What the bench takes of the library beyond its exports. */
export { nearest } from "../../lib/errors.ts";
export * from "../../lib/index.ts";
