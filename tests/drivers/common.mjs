// What the driver tests share: where to connect to, and how a passed check is told.

import assert from "node:assert/strict";

export const { PGWEIR_HOST: host, PGWEIR_USER: user, PGWEIR_PASSWORD: password } = process.env;
export const { PGWEIR_DATABASE: database, PGWEIR_MARK: mark } = process.env;
export const port = Number(process.env.PGWEIR_PORT);
export const session = process.env.PGWEIR_MODE === "session";

export function ok(name) {
  console.log("ok", name);
}

export function same(got, expected) {
  assert.deepEqual(got, expected);
}

// Awaits a failure with this SQLSTATE.
export async function fails(promise, code) {
  await assert.rejects(promise, (error) => error.code === code || assert.fail(`${error.code}: ${error.message}`));
}
