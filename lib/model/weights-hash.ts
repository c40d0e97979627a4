/**
 * Identifies a model's weights among others of the same shape, by a hash of every parameter's name, shape and numbers.
 */
import { createHash, webcrypto } from "node:crypto";
import type { Parameterized } from "./parameter.ts";

/**
 * 32 hexadecimal digits of SHA-256. The numbers are hashed beside the JavaScript thread, one parameter in memory at a
 * time.
 */
export async function weightsHash(model: Pick<Parameterized, "parameters" | "ownParameter">): Promise<string> {
  const whole = createHash("sha256");
  for (const { name } of model.parameters) {
    using value = model.ownParameter(name);
    const { dtype, shape, data } = await value.read();
    whole.update(JSON.stringify([name, dtype, shape]));
    whole.update(new Uint8Array(await webcrypto.subtle.digest("SHA-256", data)));
  }
  return whole.digest("hex").slice(0, 32);
}
