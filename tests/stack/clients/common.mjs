// What the applications' clients share: node-postgres, and where to connect to.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

export const require = createRequire(process.env.PGWEIR_NODE_MODULES + "/");
export const pg = require("pg");
export const { DB_USER: user, DB_PASSWORD: password, DB_NAME: database } = process.env;
export const [host, port] = ["127.0.0.1", Number(process.env.DB_PORT)];

export function same(got, expected) {
  assert.deepEqual(got, expected);
}
