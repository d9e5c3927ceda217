/**
 * Builds the app into src/taube/web/: page and engine worker, then the service worker that names them, then what a
 * server needs to serve them: hashes in the page, compressed forms of each file, and build.json with the hash of the whole.
 *
 * The same sources give the same bytes. This file knows nothing of what the app does.
 */

import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build, loadConfigFromFile } from "vite";

const ROOT = fileURLToPath(new URL(".", import.meta.url));
const CONFIG = join(ROOT, "vite.config.ts");
const OUT = join(ROOT, "../src/taube/web");
const COMPRESSIBLE = /\.(html|js|css|wasm|webmanifest|svg|json)$/;

const read = (name) => readFile(join(OUT, name));
const digest = (algorithm, bytes, encoding) => createHash(algorithm).update(bytes).digest(encoding);

/** Every file of the app, as sorted paths below OUT. */
async function list() {
  const found = await readdir(OUT, { recursive: true, withFileTypes: true });
  const paths = found.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return paths.map((path) => path.slice(OUT.length + 1)).sort();
}

/** Subresource integrity: a script or style that the page names runs only with the bytes of this build. */
async function pinHashes() {
  const page = (await read("index.html")).toString();
  const pins = new Map();
  for (const [, name] of page.matchAll(/(?:src|href)="\/([^"]+\.(?:js|css))"/g)) {
    pins.set(name, `sha384-${digest("sha384", await read(name), "base64")}`);
  }
  const pinned = page
    .replaceAll(" crossorigin", "")
    .replaceAll(/(src|href)="\/([^"]+\.(?:js|css))"/g, (text, _, name) => `${text} integrity="${pins.get(name)}"`);
  await writeFile(join(OUT, "index.html"), pinned);
}

/**
 * One classic file, `/sw.js`. It knows the files to keep for offline use, the description of the build among them, and a
 * hash that changes with any of them.
 */
async function buildServiceWorker(files) {
  const lines = await Promise.all(files.map(async (name) => `${digest("sha256", await read(name), "hex")}  ${name}\n`));
  const kept = [...files.map((name) => (name === "index.html" ? "/" : `/${name}`)), "/build.json"];
  const { config } = await loadConfigFromFile({ command: "build", mode: "production" }, CONFIG);
  await build({
    root: ROOT,
    configFile: false,
    logLevel: "warn",
    publicDir: false,
    resolve: config.resolve,
    define: {
      __FILES__: JSON.stringify(kept),
      __VERSION__: JSON.stringify(digest("sha256", lines.join(""), "hex")),
    },
    build: {
      outDir: OUT,
      emptyOutDir: false,
      target: config.build.target,
      reportCompressedSize: false,
      assetsInlineLimit: 0,
      rolldownOptions: {
        input: join(ROOT, "src/service_worker.ts"),
        output: { format: "iife", entryFileNames: "sw.js", codeSplitting: false },
      },
    },
  });
}

/** build.json: each file's SHA-256, and as the build's hash the SHA-256 of the lines `<hex>  <name>` in order of name. */
async function describe(names) {
  const files = {};
  for (const name of names) files[name] = digest("sha256", await read(name), "hex");
  const hash = digest("sha256", names.map((name) => `${files[name]}  ${name}\n`).join(""), "hex");
  await writeFile(join(OUT, "build.json"), `${JSON.stringify({ hash, files }, null, 1)}\n`);
  return hash;
}

async function compress(names) {
  for (const name of names.filter((name) => COMPRESSIBLE.test(name))) {
    await writeFile(join(OUT, `${name}.gz`), gzipSync(await read(name), { level: 9 }));
    await writeFile(join(OUT, `${name}.br`), brotliCompressSync(await read(name)));
  }
}

process.env.NODE_ENV = "production";
await build({ root: ROOT, configFile: CONFIG, logLevel: "warn" });
await pinHashes();
await buildServiceWorker(await list());
const hash = await describe(await list());
await compress(await list());
console.log(`The app is built, hash ${hash}.`);
