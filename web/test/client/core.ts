/** The real core, for tests in Node. */

import { readFileSync } from "node:fs";
import { browserRandom, Core, type Random } from "../../src/client/e2e";

const WASM = new URL("../../../src/taube/client/taube_core.wasm", import.meta.url);
const module = new WebAssembly.Module(readFileSync(WASM));

/** A new instance. */
export function makeCore(random: Random = browserRandom): Core {
  return new Core(random, module);
}
