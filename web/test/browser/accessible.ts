/**
 * What is wrong with the screen that a page shows, for those who see, touch or read it in another way than most.
 *
 *     await prepare(context);                  // before its pages are opened
 *     expect(await violations(page)).toEqual([]);
 *
 * `violations` asks axe-core for WCAG 2.2 AA; `smallTargets` and `misfits` measure what is drawn. Each answers with one
 * line for each fault. Only what is on top is looked at: a dialog that is open, or else the page. The three functions
 * know no screen of the app beyond a few classes of what is meant to float, to be cut off or to be out of sight.
 */

import { createRequire } from "node:module";
import type { AxeResults, RunOptions } from "axe-core";
import type { BrowserContext, Page } from "playwright-core";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

/** Let every page of *context* carry axe-core. */
export async function prepare(context: BrowserContext): Promise<void> {
  await context.addInitScript({ path: AXE });
}

/** Every violation of WCAG 2.2 AA that can be found by a program. */
export async function violations(page: Page): Promise<string[]> {
  return run(page, {
    runOnly: { type: "tag", values: WCAG },
    rules: { "target-size": { enabled: true } },
    resultTypes: ["violations"],
    iframes: false,
  });
}

/** Only those of contrast: what another theme can change. */
export async function faint(page: Page): Promise<string[]> {
  return run(page, {
    runOnly: { type: "rule", values: ["color-contrast"] },
    resultTypes: ["violations"],
    iframes: false,
  });
}

async function run(page: Page, options: RunOptions): Promise<string[]> {
  const found = await page.evaluate(async (asked) => {
    const { axe } = window as unknown as { axe: { run(on: Document, options: RunOptions): Promise<AxeResults> } };
    const { violations } = await axe.run(document, asked);
    return violations.map(({ id, nodes }) =>
      nodes.map((node) => `${id}: ${node.target.join(" ")}: ${node.failureSummary ?? ""} ${node.html.slice(0, 200)}`),
    );
  }, options);
  return found.flat();
}

/** Whatever can be tapped and is smaller than 44 by 44 pixels. Links within a text are as large as its lines. */
export async function smallTargets(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const least = 44 - 0.5;
    const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
    const small: string[] = [];
    const controls = "a[href], button, input, select, textarea, summary, [role=button], [role=switch], [role=menuitem]";
    for (const element of top.querySelectorAll<HTMLElement>(controls)) {
      if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      if (getComputedStyle(element).pointerEvents === "none") continue;
      const labelled = element.matches("[type=radio], [type=checkbox], [type=file]");
      if (element.matches(".sr-only") && !(labelled && element.closest("label"))) continue;
      const target = (labelled && element.closest<HTMLElement>("label")) || element;
      if (getComputedStyle(target).display === "inline" && target.closest(".text")) continue;
      const { width, height } = target.getBoundingClientRect();
      if (width >= least && height >= least) continue;
      const name = target.getAttribute("aria-label") ?? target.textContent?.trim().slice(0, 40);
      small.push(`${target.tagName.toLowerCase()}.${target.className} “${name}”: ${width} × ${height}`);
    }
    return small;
  });
}

/** Whatever is wider than the window, is cut off, or lies on something else. */
export async function misfits(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    type Box = { left: number; top: number; right: number; bottom: number };
    const found: string[] = [];
    const wide = document.documentElement.clientWidth;
    const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
    const out = ".sr-only, .swipe-sign, .toast";
    const floats = ".fab, .jump, .day-floating, .chat-more, .line-more, .scanner-frame, .ring";
    const told = (element: Element) =>
      `${element.tagName.toLowerCase()}.${String(element.getAttribute("class") ?? "").replaceAll(" ", ".")} “${(
        element.textContent ?? ""
      )
        .trim()
        .slice(0, 50)}”`;
    const seen = (element: Element) =>
      !element.closest(out) &&
      element.checkVisibility({ opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true });
    /** What is meant to be cut off: names, previews, quotes. */
    const shortened = (element: Element) => {
      const style = getComputedStyle(element);
      return style.textOverflow === "ellipsis" || style.webkitLineClamp !== "none";
    };

    if (document.documentElement.scrollWidth > wide || window.innerWidth > screen.width + 1)
      found.push(`the page is ${document.documentElement.scrollWidth} wide in a window of ${wide}`);

    const shown = [...top.querySelectorAll<HTMLElement>("*")].filter(
      (each) => each instanceof HTMLElement && seen(each),
    );
    for (const each of shown) {
      const box = each.getBoundingClientRect();
      const cutOff = each.parentElement?.closest(".one-line, .preview-text, .found, .link-text, .quote-what");
      if (box.width > 0 && box.height > 0 && (box.left < -1 || box.right > wide + 1) && !cutOff)
        found.push(`${told(each)} reaches from ${Math.round(box.left)} to ${Math.round(box.right)} of ${wide}`);
      if (each.matches("input, textarea, select, video, img")) continue;
      const style = getComputedStyle(each);
      const cut = !shortened(each);
      if (style.overflowX !== "visible" && cut && each.scrollWidth > each.clientWidth + 1)
        found.push(`${told(each)} is ${each.scrollWidth} wide inside and ${each.clientWidth} outside`);
      if (["hidden", "clip"].includes(style.overflowY) && cut && each.scrollHeight > each.clientHeight + 2)
        if (!each.matches(".text"))
          found.push(`${told(each)} is ${each.scrollHeight} high inside and ${each.clientHeight} outside`);
    }

    /** *box* as far as whatever it scrolls in lets it be seen; null: not at all. */
    const visible = (element: Element, box: Box): Box | null => {
      const seen = { ...box };
      for (let around: Element | null = element; around; around = around.parentElement) {
        const { overflowX, overflowY, display } = getComputedStyle(around);
        if ((overflowX === "visible" && overflowY === "visible") || display === "inline") continue;
        const frame = around.getBoundingClientRect();
        seen.left = Math.max(seen.left, frame.left);
        seen.right = Math.min(seen.right, frame.right);
        seen.top = Math.max(seen.top, frame.top);
        seen.bottom = Math.min(seen.bottom, frame.bottom);
      }
      return seen.right - seen.left > 1 && seen.bottom - seen.top > 1 ? seen : null;
    };

    const words: { element: Element; box: Box }[] = [];
    const walker = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (
        !element ||
        !node.textContent?.trim() ||
        !seen(element) ||
        element.closest(`${floats}, select, svg, textarea`)
      )
        continue;
      range.selectNodeContents(node);
      const target = element.closest("button, a[href], summary, .badge, .bubble, h1, h2, .notice, .day span");
      const free = element.closest(".name, .found, .preview-text, .quote-what, .over-title");
      const around = target && !free ? target.getBoundingClientRect() : null;
      for (const line of [...range.getClientRects()].slice(0, 60)) {
        if (line.width < 2) continue;
        // a font may reach above and below the line that it stands on
        const spare = line.height * 0.25;
        const box = { left: line.left + 1, right: line.right - 1, top: line.top + spare, bottom: line.bottom - spare };
        if (around && getComputedStyle(target as Element).display !== "inline") {
          const over = Math.max(
            around.left - box.left,
            box.right - around.right,
            around.top - box.top,
            box.bottom - around.bottom,
          );
          if (over > 1.5 && !element.closest(".text"))
            found.push(`${told(element)} sticks out of ${told(target as Element)}`);
        }
        const inside = visible(element, box);
        if (inside) words.push({ element, box: inside });
      }
    }
    const meet = (one: Box, other: Box) =>
      Math.min(one.right, other.right) - Math.max(one.left, other.left) > 2 &&
      Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 2;
    words.forEach((one, at) => {
      for (const other of words.slice(at + 1))
        if (one.element !== other.element && meet(one.box, other.box))
          found.push(`${told(one.element)} and ${told(other.element)} lie on each other`);
    });

    const targets = [...top.querySelectorAll("a[href], button, input, select, textarea, summary")]
      .filter((each) => seen(each) && !each.closest(floats))
      .map((element) => ({ element, box: visible(element, element.getBoundingClientRect()) }));
    targets.forEach((one, at) => {
      for (const other of targets.slice(at + 1)) {
        if (!one.box || !other.box || one.element.contains(other.element)) continue;
        if (meet(one.box, other.box)) found.push(`${told(one.element)} and ${told(other.element)} share a place`);
      }
    });
    return [...new Set(found)].slice(0, 20);
  });
}
