/**
 * Draws the app's icons from public/icon.svg: `node icons.mjs`, after the drawing was changed.
 *
 * A maskable icon and Apple's have no corners of their own; what matters stays in the middle four fifths of the first.
 * The browser of the tests draws them, so that there is no library for it.
 */

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const PUBLIC = fileURLToPath(new URL("public/", import.meta.url));
const SQUARE = ['rx="112"', 'rx="0"'];
const SMALLER = ["translate(-6 24)", "translate(48 118) scale(.8)"];
const ICONS = [
  ["icon-192.png", 192, []],
  ["icon-512.png", 512, []],
  ["icon-maskable-512.png", 512, [SQUARE, SMALLER]],
  ["apple-touch-icon.png", 180, [SQUARE]],
];

const drawing = await readFile(`${PUBLIC}icon.svg`, "utf8");
const browser = await chromium.launch({
  executablePath: process.env.TAUBE_CHROMIUM ?? "/usr/bin/chromium",
  args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
});
const page = await browser.newPage();
for (const [name, size, changes] of ICONS) {
  const svg = changes.reduce((text, [from, to]) => text.replace(from, to), drawing);
  await page.setViewportSize({ width: size, height: size });
  await page.setContent(`<style>body{margin:0}svg{display:block;width:100vw;height:100vh}</style>${svg}`);
  await writeFile(PUBLIC + name, await page.screenshot({ omitBackground: true }));
}
await browser.close();
