/** A server is updated while people use it: what they have goes on, and the new app comes when they want it. */

import { rm } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { OLDER, olderProgram } from "./older";
import { PATIENT, shown, useStage } from "./people";

const stage = useStage();
let older: string;

beforeAll(async () => {
  older = await olderProgram();
});
afterAll(() => rm(older, { recursive: true, force: true }));

test("a new version waits until a person wants it; then it is there, and nothing is left of the one before", async () => {
  await stage.server.stop();
  await stage.server.start(older);
  const [ada, ben] = await stage.friends();
  const build = () => ada.page.evaluate(() => document.documentElement.dataset.build);
  const shells = () =>
    ada.page.evaluate(async () => (await caches.keys()).filter((name) => /^taube-shell-/.test(name)));
  await ada.kept();
  expect([await build(), await shells()]).toEqual([OLDER, [`taube-shell-${OLDER}`]]);
  await ada.field("Message").fill("begun before");
  await ada.home();

  await stage.server.stop();
  await stage.server.start();
  await ada.page.evaluate(async () => (await navigator.serviceWorker.getRegistration())?.update());
  const card = ada.page.getByRole("complementary", { name: "A new version of Taube is here" });
  await shown(card);
  const catalogues = ada.phone.requests.filter((url) => /_catalogue_fr-/.test(url));
  expect(catalogues).toHaveLength(1); // the file is the same in both
  await ada.reload();
  await shown(card);
  expect(await build()).toBe(OLDER);
  await ben.write("to the older version");
  await ada.open("Ben");
  await ada.receive("to the older version");
  await ada.home();

  await ada.button("Load it now").click();
  await expect.poll(build, PATIENT).toBeUndefined();
  await shown(ada.chat("Ben"));
  expect(await build()).toBeUndefined();
  await expect.poll(shells, PATIENT).toEqual([expect.not.stringContaining(OLDER)]);
  expect(await card.count()).toBe(0);
  await ada.open("Ben");
  expect(await ada.field("Message").inputValue()).toBe("begun before");
  await ada.button("Send").click();
  await ada.tick("begun before", "read");
  expect([...ada.alarms, ...ben.alarms]).toEqual([]);
});
