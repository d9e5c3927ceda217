/** A program that is one version older than this one, as a server would run it: all that differs is the app's build. */

import { createHash } from "node:crypto";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const PROGRAM = fileURLToPath(new URL("../../../src/taube", import.meta.url));
const FORMS = ["", ".gz", ".br"];
/** What the older build calls itself, in its page and as its version. */
export const OLDER = "0".repeat(64);

const sha256 = (bytes: string | Buffer): string => createHash("sha256").update(bytes).digest("hex");

/** The folder that it is in, a copy to be removed by whoever asked for it. */
export async function olderProgram(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "taube-older-"));
  await cp(PROGRAM, join(folder, "taube"), { recursive: true, filter: (from) => basename(from) !== "__pycache__" });
  const app = join(folder, "taube", "web");
  const build = JSON.parse(await readFile(join(app, "build.json"), "utf8")) as { files: Record<string, string> };
  const rewrite = async (name: string, change: (text: string) => string) => {
    const text = change(await readFile(join(app, name), "utf8"));
    await Promise.all(FORMS.map((form) => rm(join(app, name + form), { force: true })));
    await writeFile(join(app, name), text);
    return sha256(text);
  };
  build.files["index.html"] = await rewrite("index.html", (page) =>
    page.replace("<html", `<html data-build="${OLDER}"`),
  );
  build.files["sw.js"] = await rewrite("sw.js", (worker) => worker.replace(/\b[0-9a-f]{64}\b/, OLDER));
  const lines = Object.entries(build.files).map(([name, hash]) => `${hash}  ${name}\n`);
  await rewrite("build.json", () => JSON.stringify({ hash: sha256(lines.join("")), files: build.files }));
  return folder;
}
