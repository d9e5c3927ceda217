/** One profile, opened more than once: as two tabs of one browser, and as a copy of the folder, which must be found out. */

import { cp } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Cable } from "./cable";
import { befriend, PATIENT, shown, type User, useStage } from "./people";

const stage = useStage();

test("two tabs show the same, both can write, and when the first is closed the second goes on", async () => {
  const cable = await Cable.lay();
  const [ada, ben] = await stage.friends(cable);
  const tab = await ada.newTab();
  await tab.open("Ben");
  await tab.write("from the second tab");
  await ben.receive("from the second tab");
  for (const each of [tab, ada]) await each.tick("from the second tab", "read");
  await ada.write("from the first tab");
  for (const each of [tab, ada]) await each.tick("from the first tab", "read");
  await ben.field("Message").pressSequentially("to ");
  for (const each of [tab, ada]) await each.see("typing …");
  await ben.write("to both");
  for (const each of [tab, ada]) await each.receive("to both");
  await ben.tick("to both", "read");

  cable.cut();
  await ada.write("not yet sent");
  await tab.tick("not yet sent", "waiting to be sent");
  await ada.page.close();
  cable.mend();
  await tab.tick("not yet sent", "read");
  await tab.write("from the one that is left");
  await tab.tick("from the one that is left", "read");
  await ben.write("to the one that is left");
  await tab.receive("to the one that is left");
  const all = ["Hello Ben!", "Hello Ada!", "from the second tab", "from the first tab", "to both", "not yet sent"];
  all.push("from the one that is left", "to the one that is left");
  for (const each of [tab, ben]) await expect.poll(() => each.texts(), PATIENT).toEqual(all);
  expect([...tab.alarms, ...ben.problems]).toEqual([]);
  await cable.remove();
});

test("what is being written is in the other tab too, outlives a reload, and is gone from both once it is sent", async () => {
  const [ada, ben] = await stage.friends();
  const tab = await ada.newTab();
  await tab.open("Ben");
  const writes = (user: User) => expect.poll(() => user.field("Message").inputValue(), PATIENT);
  await ada.choose("Hello Ada!", "Reply");
  await ada.field("Message").fill("half a sentence");
  await writes(tab).toBe("half a sentence");
  await ada.reload();
  await writes(ada).toBe("half a sentence");
  for (const user of [ada, tab]) await shown(user.button("Do not reply to this message"));
  await tab.write("half a sentence, and the rest");
  await shown(ben.message("half a sentence, and the rest").getByRole("button", { name: /You.*Hello Ada!/ }));
  for (const user of [ada, tab]) await writes(user).toBe("");
  expect([...ada.problems, ...ben.problems]).toEqual([]);
});

test("a tab whose app was updated by another one offers to be loaded anew", async () => {
  const [ada] = await stage.friends();
  await ada.kept();
  await ada.home();
  // as when the other tab's new build has taken over: then the files of this build are on the device no more
  await ada.page.evaluate(() => navigator.serviceWorker.dispatchEvent(new Event("controllerchange")));
  const loaded = ada.page.waitForEvent("load");
  await ada.button("Load it now").click();
  await loaded;
  await shown(ada.chat("Ben"));
  expect(ada.problems).toEqual([]);
});

test("a profile whose copy was used is told so, and goes on as a new device when a person says so", async () => {
  const cable = await Cable.lay();
  const folder = await stage.folder();
  const invitation = await stage.invitation();
  const [first, ben] = await Promise.all([stage.installed(folder, invitation, cable), stage.phone("Ben")]);
  await first.join("Ada");
  await befriend(first, ben);
  cable.cut();
  await first.write("waiting in both");
  await first.tick("waiting in both", "waiting to be sent");
  await first.phone.close();
  cable.mend();
  const copied = join(await stage.folder(), "copy");
  await cp(folder, copied, { recursive: true });

  const copy = await stage.installed(copied);
  await copy.open("Ben");
  await copy.write("from the copy");
  for (const text of ["waiting in both", "from the copy"]) await copy.tick(text, "read");

  const ada = await stage.installed(folder, "/", cable);
  await shown(ada.heading("Taube is in use elsewhere"));
  await ada.button("Only read the history").click();
  await ada.open("Ben");
  await ada.receive("Hello Ada!");
  await ada.see("Taube is in use elsewhere. Nothing is sent from here.");
  expect(await ada.field("Message").count()).toBe(0);
  await copy.phone.close();
  await ben.write("to neither of them");
  await ben.tick("to neither of them", "sent");

  await ada.button("Taube is in use elsewhere").click();
  await ada.button("Use here").click();
  await shown(ada.field("Message"));
  await ada.see("This device has asked to be let into the chat again.");
  await ada.see("This device is in the chat again.");
  await ada.receive("to neither of them");
  await ada.tick("waiting in both", "read");
  await ada.write("from a new device");
  await ada.tick("from a new device", "read");
  const notice = /Ada\W+uses a new device/;
  await ben.see(notice);
  await ben.write("to the new device");
  await ada.receive("to the new device");
  await ben.tick("to the new device", "read");
  const texts = (await ben.texts()).filter((text) => !notice.test(text));
  expect(texts.slice(2, 5)).toEqual(["waiting in both", "from the copy", "to neither of them"]);
  expect(texts.slice(5)).toEqual(["from a new device", "to the new device"]);

  const late = await stage.installed(copied);
  await shown(late.heading("Taube is in use elsewhere"));
  expect([...ada.alarms, ...late.alarms, ...ben.problems]).toEqual([]);
  await cable.remove();
});
