/**
 * A page built for tests and served on loopback, without a server of Taube: `serve(folder)`, then `close()`.
 *
 * It is built as the app is built, from the `index.html` in its folder. It knows nothing of what the page does.
 */

import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, mergeConfig } from "vite";
import config from "../../vite.config.ts";

const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
};

export interface Site {
  /** Ends with a slash. */
  readonly origin: string;
  close(): Promise<void>;
}

/** *page*: a folder, as this file names it. */
export async function serve(page: string): Promise<Site> {
  const outDir = await mkdtemp(join(tmpdir(), "taube-page-"));
  const own = {
    root: fileURLToPath(new URL(page, import.meta.url)),
    configFile: false as const,
    logLevel: "warn" as const,
    publicDir: false as const,
    build: { outDir },
  };
  await build(mergeConfig(config, own));
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? "", "http://localhost");
    try {
      const data = await readFile(join(outDir, pathname === "/" ? "index.html" : pathname));
      response.setHeader("Content-Type", TYPES[extname(pathname) || ".html"] ?? "application/octet-stream");
      response.end(data);
    } catch {
      response.writeHead(404).end();
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    close: async () => {
      server.closeAllConnections();
      server.close();
      await rm(outDir, { recursive: true, force: true });
    },
  };
}
